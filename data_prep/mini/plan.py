"""What is to be written: texts as bytes, and audio files as jobs, one for each latent recording.

Planning draws every latent and writes every annotation without rendering a sample, so it takes a second or two.
Rendering is then one pure function of a job, in any order and any process.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile
import soxr

from data_prep.mini.dsp import RATE_HZ, Signal, n_samples, reverberate
from data_prep.mini.music import Music, Note, render_music, render_notes
from data_prep.mini.scenes import Sound, render_sound
from data_prep.mini.seeds import stream
from data_prep.mini.speech import Utterance, render_speech
from pipeline.data.manifest import write_atomic


@dataclass(frozen=True)
class Score:
    """Music whose notes are part of the annotation."""

    music: Music
    notes: tuple[Note, ...]

    @property
    def key(self) -> str:
        return self.music.key


Recording = Sound | Music | Score | Utterance


@dataclass(frozen=True)
class AudioFile:
    """One copy of a recording: path below the output folder; its suffix is the container. `max_s` keeps an excerpt."""

    path: str
    rate_hz: int = RATE_HZ
    stereo: bool = False
    max_s: float | None = None


@dataclass(frozen=True)
class Job:
    """One recording with all the files, of any corpus, that hold it."""

    seed: int
    recording: Recording
    files: tuple[AudioFile, ...]


@dataclass
class Plan:
    """Collects files while the corpora are laid out; refuses two different contents for one path or key."""

    seed: int
    scale: float
    recordings: dict[str, Recording] = field(default_factory=dict)
    files: dict[str, list[AudioFile]] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    clips: dict[str, int] = field(default_factory=dict)
    _paths: set[str] = field(default_factory=set)

    def n(self, count: int, least: int = 2) -> int:
        """`count` at this plan's scale."""
        return max(least, round(count * self.scale))

    def audio(
        self,
        corpus: str,
        path: str,
        recording: Recording,
        *,
        rate_hz: int = RATE_HZ,
        stereo: bool = False,
        max_s: float | None = None,
        counted: bool = True,
    ) -> None:
        """One audio file of `corpus`; `counted` is False for a further copy of a clip within the corpus."""
        known = self.recordings.setdefault(recording.key, recording)
        assert known == recording, f"two latents under the key {recording.key}"
        self._claim(path)
        self.files.setdefault(recording.key, []).append(AudioFile(path, rate_hz, stereo, max_s))
        if counted:
            self.clips[corpus] = self.clips.get(corpus, 0) + 1

    def text(self, path: str, content: str | bytes, encoding: str = "utf-8") -> None:
        self._claim(path)
        self.texts[path] = content if isinstance(content, bytes) else content.encode(encoding)

    def table(
        self,
        path: str,
        rows: Iterable[Sequence[object]],
        *,
        end: str = "\n",
        delimiter: str = ",",
        encoding: str = "utf-8",
    ) -> None:
        """A CSV file, its header included in `rows`."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator=end, delimiter=delimiter).writerows(rows)
        self.text(path, buffer.getvalue(), encoding)

    def jobs(self) -> list[Job]:
        return [Job(self.seed, self.recordings[key], tuple(files)) for key, files in self.files.items()]

    def _claim(self, path: str) -> None:
        assert path not in self._paths, f"two files under the path {path}"
        self._paths.add(path)


def run_job(out: Path, job: Job) -> None:
    """Render a recording and write its files, each atomically; files of an earlier, killed run are kept."""
    missing = [file for file in job.files if not (out / file.path).exists()]
    if not missing:
        return
    signal = render(job.seed, job.recording)
    for file in missing:
        path = out / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _encode(job, file, signal))


def render(seed: int, recording: Recording) -> Signal:
    """Samples [T] at `RATE_HZ` of any latent; depends on `seed` and the latent alone."""
    if isinstance(recording, Sound):
        return render_sound(seed, recording)
    if isinstance(recording, Utterance):
        return render_speech(seed, recording)
    if isinstance(recording, Score):
        return render_notes(seed, recording.music, list(recording.notes))
    return render_music(seed, recording)


def _encode(job: Job, file: AudioFile, signal: Signal) -> bytes:
    if file.max_s is not None:
        signal = signal[: n_samples(file.max_s)]
    if file.stereo:
        rng = stream(job.seed, job.recording.key, "stereo")
        signal = np.stack([reverberate(rng, signal, 0.12, 0.25) for _ in range(2)], axis=1)
    if file.rate_hz != RATE_HZ:
        signal = soxr.resample(signal, RATE_HZ, file.rate_hz)
    pcm = np.clip(np.rint(signal * 32767), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    container = "FLAC" if PurePosixPath(file.path).suffix == ".flac" else "WAV"
    soundfile.write(buffer, pcm, file.rate_hz, format=container, subtype="PCM_16")
    return buffer.getvalue()

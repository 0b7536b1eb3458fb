"""`gst bench prepare`, speed: our path from audio files to a shard against ffmpeg doing the conversion alone.

Both have one core and the same files in the same cache, and write 16 kHz mono 16-bit FLAC with the compression that
libFLAC and ffmpeg have by default (5). Ours also checks for damage, writes JSON, tar, offsets and SHA-256, and waits
for the disk. Not counted is what a job of hours pays once: planning and imports. ffmpeg is used in three ways:

    one process     for all files, its fastest form that keeps clips apart: the figure. It is told to look at the first
                    32 kB only when it finds out what a file is, which halves its time for WAV files
    per file        one process a file with default settings, as shell scripts do
    soxr            one process with the resampler that we use too; ffmpeg's own is of lower quality
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from data_prep.adapters.jsonl import METADATA_NAME, JsonlCorpus
from data_prep.planning.plan import PlanOptions, make_plan
from data_prep.planning.task import ShardTask
from data_prep.shards.write import write_shard
from pipeline.errors import ConfigError
from tests.bench.common import Ratio, alternate, context, figure, find_ffmpeg, geometric_mean, ratio

CLIP_S = 10.0
RATE_HZ = 16_000
TARGET = 0.8


@dataclass(frozen=True)
class Source:
    """One kind of file that corpora come in."""

    name: str
    suffix: str
    rate_hz: int
    channels: int
    subtype: str


SOURCES = (
    Source("wav_44k_stereo", "wav", 44_100, 2, "PCM_16"),
    Source("wav_48k_stereo_24bit", "wav", 48_000, 2, "PCM_24"),
    Source("flac_32k_mono", "flac", 32_000, 1, "PCM_16"),
    Source("mp3_44k_stereo", "mp3", 44_100, 2, "MPEG_LAYER_III"),
)


def measure_speed(folder: Path, *, n_clips: int, seed: int) -> None:
    """Print the figures; `folder` is created and holds some hundred MB meanwhile."""
    ffmpeg = Ffmpeg(find_ffmpeg())
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_cores)})
    try:
        context(f"speed: {n_clips} clips of {CLIP_S:g} s a kind, one core; {ffmpeg.version()}")
        ratios = [_measure_source(source, folder / source.name, ffmpeg, n_clips, seed) for source in SOURCES]
    finally:
        os.sched_setaffinity(0, all_cores)
    means = {way: geometric_mean([by_way[way] for by_way in ratios]) for way in ratios[0]}
    for way, mean in means.items():
        context(f"geometric mean over ffmpeg, {way}: {mean}")
    figure("prepare_over_ffmpeg", means["one process"].median, "ratio", target=TARGET)
    figure("prepare_over_ffmpeg_per_file", means["per file"].median, "ratio")
    if "soxr" in means:
        figure("prepare_over_ffmpeg_soxr", means["soxr"].median, "ratio")


def _measure_source(source: Source, folder: Path, ffmpeg: Ffmpeg, n_clips: int, seed: int) -> dict[str, Ratio]:
    """Our clips per second over ffmpeg's, for each way to use it."""
    corpus, out = folder / "corpus", folder / "ffmpeg"
    files = write_corpus(corpus, source, n_clips, seed)
    out.mkdir()
    task = _plan_one_shard(corpus, folder / "shards")
    ours = "ours"
    ways: dict[str, Callable[[], object]] = {
        ours: lambda: _write_again(task),
        "one process": lambda: ffmpeg.convert_all(files, out),
        "per file": lambda: ffmpeg.convert_each(files, out),
    }
    if ffmpeg.has_soxr():
        ways["soxr"] = lambda: ffmpeg.convert_all(files, out, resampler="soxr")
    seconds = alternate(ways)
    _check_same_content(task, out, n_clips)
    rates = {way: n_clips / float(np.median(values)) for way, values in seconds.items()}
    context(f"{source.name}: clips/s " + ", ".join(f"{way} {rate:.0f}" for way, rate in rates.items()))
    ratios = {way: ratio(values, seconds[ours]) for way, values in seconds.items() if way != ours}
    context(f"{source.name}: ours over ffmpeg, one process: {ratios['one process']}")
    shutil.rmtree(folder)
    return ratios


def write_corpus(folder: Path, source: Source, n_clips: int, seed: int) -> list[Path]:
    """A corpus in `metadata.jsonl` form with clips like real ones; returns the audio files."""
    folder.mkdir(parents=True)
    files, lines = [], []
    for number in range(n_clips):
        name = f"clip{number:03d}"
        path = folder / f"{name}.{source.suffix}"
        audio = make_clip(source, np.random.default_rng([seed, number]))
        soundfile.write(path, audio, source.rate_hz, subtype=source.subtype)
        lines.append({"id": name, "audio": path.name, "dataset": "bench", "split": "train", "domain": "sound"})
        lines[-1] |= {"question": "What is to be heard?", "answer": "tones and bursts of noise"}
        files.append(path)
    (folder / METADATA_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return files


def make_clip(source: Source, rng: np.random.Generator, duration_s: float = CLIP_S) -> NDArray[np.float32]:
    """[T, channels]: harmonic tones that swell and fade, bursts of band-limited noise, and a quiet floor."""
    n = round(duration_s * source.rate_hz)
    time_s = np.arange(n) / source.rate_hz
    audio = 1e-4 * rng.normal(size=(n, source.channels))
    for _ in range(6):
        pitch_hz = rng.uniform(80, 800)
        swell = np.exp(-(((time_s - rng.uniform(0, duration_s)) / rng.uniform(0.3, 2.0)) ** 2))
        tone = sum(np.sin(2 * np.pi * pitch_hz * k * time_s) / k for k in range(1, 8))
        audio += 0.06 * np.outer(swell * tone, rng.uniform(0.3, 1.0, source.channels))
    for _ in range(6):
        low_hz = rng.uniform(100, 4000)
        noise = _band(rng.normal(size=n), source.rate_hz, low_hz, 2.5 * low_hz)
        burst = noise * (np.abs(time_s - rng.uniform(0, duration_s)) < 0.7)
        audio += 0.1 * np.outer(burst, rng.uniform(0.3, 1.0, source.channels))
    return np.clip(audio, -1, 1).astype(np.float32)


def _band(noise: NDArray[np.float64], rate_hz: int, low_hz: float, high_hz: float) -> NDArray[np.float64]:
    """The part of `noise` between two frequencies."""
    spectrum = np.fft.rfft(noise)
    frequency_hz = np.fft.rfftfreq(len(noise), 1 / rate_hz)
    spectrum[(frequency_hz < low_hz) | (frequency_hz > high_hz)] = 0
    return np.fft.irfft(spectrum, len(noise))


def _plan_one_shard(corpus: Path, out: Path) -> ShardTask:
    plan = make_plan(JsonlCorpus("bench"), corpus, out, PlanOptions(val_fraction=0.0, test_fraction=0.0))
    (task,) = plan.shards
    return task


def _write_again(task: ShardTask) -> None:
    """Write the shard as if it were not there; to delete it takes no time to speak of."""
    task.side.unlink(missing_ok=True)
    task.tar.unlink(missing_ok=True)
    write_shard(task)


def _check_same_content(task: ShardTask, out: Path, n_clips: int) -> None:
    """Both have really converted every clip to the same number of samples, but for the resamplers' edges."""
    side = json.loads(task.side.read_text())
    assert side["n_samples"] == n_clips
    seconds = {sample["clip_id"]: sample["duration_s"] for sample in side["samples"]}
    for path in out.glob("*.flac"):
        converted = soundfile.info(path)
        got = (converted.samplerate, converted.channels, converted.subtype)
        if got != (RATE_HZ, 1, "PCM_16") or abs(converted.duration - seconds.pop(path.stem)) > 0.1:
            raise ConfigError("ffmpeg has converted to something else", where={"file": path}, got=converted)
    assert not seconds


class Ffmpeg:
    """Conversion to 16 kHz mono 16-bit FLAC with one thread for each decoder and encoder."""

    _LITTLE_PROBING = ("-probesize", "32768", "-analyzeduration", "0")

    def __init__(self, program: str) -> None:
        self._start = [program, "-nostdin", "-hide_banner", "-loglevel", "error", "-y"]
        self._program = program

    def version(self) -> str:
        done = subprocess.run([self._program, "-version"], capture_output=True, text=True, check=True)
        return " ".join(done.stdout.split()[:3])

    def has_soxr(self) -> bool:
        done = subprocess.run([self._program, "-version"], capture_output=True, text=True, check=True)
        return "--enable-libsoxr" in done.stdout

    def convert_all(self, files: Sequence[Path], out: Path, resampler: str = "") -> None:
        inputs = [word for file in files for word in ("-threads", "1", *self._LITTLE_PROBING, "-i", str(file))]
        outputs = [
            word for number, file in enumerate(files) for word in (*_output(number, resampler), _target(file, out))
        ]
        subprocess.run([*self._start, "-filter_complex_threads", "1", *inputs, *outputs], check=True)

    def convert_each(self, files: Sequence[Path], out: Path) -> None:
        for file in files:
            subprocess.run(
                [*self._start, "-threads", "1", "-i", str(file), *_output(0, ""), _target(file, out)], check=True
            )


def _output(number: int, resampler: str) -> list[str]:
    words = ["-map", f"{number}:a:0", "-threads", "1", "-filter_threads", "1", "-ac", "1", "-ar", str(RATE_HZ)]
    words += ["-sample_fmt", "s16"]
    return [*words, "-af", f"aresample={RATE_HZ}:resampler={resampler}"] if resampler else words


def _target(file: Path, out: Path) -> str:
    return str(out / f"{file.stem}.flac")

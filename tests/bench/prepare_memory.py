"""`gst bench prepare`, memory: an OpenAQA of the real size, made of random sentences, planned and cut to 200 clips.

The real file has 5.68 million rows about 845,000 clips in 2.3 GB; the questions of one clip lie far apart. Some audio
is there (links to a few files), as nobody has all of it. Planning keeps its clips in a temporary database in `TMPDIR`,
which is set to the benchmark's own folder; it is on disk and no memory.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from pipeline.data.manifest import MANIFEST_NAME, DatasetManifest, read_model
from pipeline.errors import GstError
from tests.bench.common import context, figure, measure_command

N_ROWS = 5_600_000
ROWS_PER_CLIP = 5_600_000 / 845_000
ONE_PRESENT_OF = 8
REFUSED_ONE_OF = 10
REFUSAL = '"It cannot be determined from the audio clip."'
TARGET_GB = 2.0
LIMIT = 200
N_AUDIO_FILES = 10
FOLDERS_OF_AUDIO = 100
STEP = 15_485_863  # a prime: multiples of it visit every clip once, far apart

VOCABULARY = """
    a the of and with in over then while someone dog bird engine rain wind speech music guitar piano water door bell
    crowd laughter footsteps siren train car distant loud quiet steady sharp low high rhythmic metallic sudden soft
    outdoor indoor background foreground continuous short repeated sound voice melody hum buzz click splash recorded
    suggests indicates may likely because scene atmosphere evening street kitchen forest station
"""


@dataclass(frozen=True)
class Part:
    """One source of OpenAQA: the value of `dataset`, its share of the clips, and the paths of the authors."""

    name: str
    share: float
    path: str
    ids: str  # youtube, youtube_start or number


PARTS = (
    Part("as_2m", 0.55, "/data/sls/audioset/dave_version/audio/{}.flac", "youtube"),
    Part("vggsound_train", 0.22, "/data/sls/scratch/audio/vggsound/train/{}.flac", "youtube_start"),
    Part("freesound_10s", 0.17, "/data/sls/scratch/audio/freesound_10s/{}.flac", "number"),
    Part("fsd50k_tr", 0.05, "/data/sls/scratch/audio/fsd50k/dev_audio_16k/{}.wav", "number"),
    Part("fsd50k_val", 0.01, "/data/sls/scratch/audio/fsd50k/dev_audio_16k/{}.wav", "number"),
)
TASKS = (
    "open-ended question",
    "cla_label",
    "cla_label_des",
    "caption",
    "temporal",
    "open-ended question",
    "open-ended question",
)


def measure_memory(folder: Path, *, n_rows: int, seed: int) -> None:
    """Print the figures; `folder` is created, and holds about three times the annotation file meanwhile."""
    root, out = folder / "openaqa", folder / "out"
    started_s = time.monotonic()
    n_clips, n_present = write_openaqa(root, folder / "tones", n_rows, seed)
    file = root / "openaqa.json"
    size_gb = file.stat().st_size / 1e9
    context(f"memory: {n_rows} questions about {n_clips} clips in {size_gb:.2f} GB, audio for {n_present} of them")
    context(f"made in {time.monotonic() - started_s:.0f} s")
    words = [sys.executable, "-m", "data_prep.cli", "prepare", "--corpus", "openaqa", "--root", root, "--out", out]
    words += ["--limit", LIMIT, "--max-missing-fraction", 1]
    temporary = {"TMPDIR": str(folder), "SQLITE_TMPDIR": str(folder)}
    started_s = time.time()
    measured = measure_command(words, folder / "log", env={**os.environ, **temporary})
    if measured.exit_code:
        raise GstError("the preparation of the synthetic OpenAQA failed", got=measured.output[-2000:])
    manifest = read_model(out / "openaqa" / MANIFEST_NAME, DatasetManifest)
    clips = {split: entry.clips for split, entry in manifest.splits.items()}
    assert clips and max(clips.values()) <= LIMIT, clips
    context(f"clips written: {clips}; states: {manifest.states}")
    context(f"{measured.seconds:.0f} s in all")
    figure("openaqa_peak_gb", measured.peak_bytes / 1e9, "GB", target=TARGET_GB, better="lower")
    # The record is the last file of a plan.
    figure("openaqa_planning_s", (out / "openaqa/plan/plan.json").stat().st_mtime - started_s, "s")
    shutil.rmtree(folder)


def write_openaqa(root: Path, tones: Path, n_rows: int, seed: int) -> tuple[int, int]:
    """The annotation file and a part of the audio; returns (clips, clips with audio)."""
    n_clips = max(1, round(n_rows / ROWS_PER_CLIP))
    root.mkdir(parents=True)
    with open(root / "openaqa.json", "w", encoding="utf-8") as file:
        file.write("[")
        rows = itertools.islice(_rows(n_clips, seed), n_rows)
        for number, row in enumerate(rows):
            file.write(",\n" if number else "\n")
            file.write(row)
        file.write("\n]\n")
    return n_clips, _link_audio(root / "audio", tones, n_clips)


def _rows(n_clips: int, seed: int) -> Iterator[str]:
    """Rows without end: each pass asks one question about every clip, in another order."""
    assert math.gcd(STEP, n_clips) == 1
    random_words = random.Random(seed)
    questions = [json.dumps(_sentence(random_words, 6, 16) + "?") for _ in range(2000)]
    answers = [json.dumps(_sentence(random_words, 8, 36) + ".") for _ in range(5000)]
    answers[::REFUSED_ONE_OF] = [REFUSAL] * len(answers[::REFUSED_ONE_OF])
    clips = [_clip(number, n_clips) for number in range(n_clips)]
    for turn in itertools.count():
        task = TASKS[turn % len(TASKS)]
        prefix = "" if task.startswith("open") else "Closed-ended question: "
        rng = np.random.default_rng([seed, turn])
        which = zip(rng.integers(len(questions), size=n_clips), rng.integers(len(answers), size=n_clips), strict=True)
        for index, (question, answer) in enumerate(which):
            path, part = clips[(turn * n_clips // 3 + index * STEP) % n_clips]
            yield (
                f' {{\n  "instruction": "{prefix}{questions[question][1:]},\n  "input": "",\n  "audio_id": "{path}",\n'
                f'  "dataset": "{part}",\n  "task": "{task}",\n  "output": {answers[answer]}\n }}'
            )


def _sentence(words: random.Random, shortest: int, longest: int) -> str:
    return " ".join(words.choices(VOCABULARY.split(), k=words.randint(shortest, longest))).capitalize()


def _clip(number: int, n_clips: int) -> tuple[str, str]:
    """(path, part) of a clip."""
    part, stem = _part_and_stem(number, n_clips)
    return part.path.format(stem), part.name


def _part_and_stem(number: int, n_clips: int) -> tuple[Part, str]:
    place, total = number / n_clips, 0.0
    for part in PARTS:
        total += part.share
        if place < total:
            break
    if part.ids == "number":
        return part, str(100 + number)
    digest = hashlib.blake2b(str(number).encode(), digest_size=8).digest()
    youtube_id = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return part, youtube_id if part.ids == "youtube" else f"{youtube_id}_{number % 300}"


def _link_audio(folder: Path, tones: Path, n_clips: int) -> int:
    """Links to a few short files for some of the clips."""
    tones.mkdir()
    for number in range(N_AUDIO_FILES):
        tone = 0.3 * np.sin(2 * np.pi * 220 * (1 + number) * np.arange(16_000) / 16_000)
        soundfile.write(tones / f"{number}.wav", tone, 16_000)
    present = range(0, n_clips, ONE_PRESENT_OF)
    for number in present:
        part, stem = _part_and_stem(number, n_clips)
        place = folder / part.name / f"{number % FOLDERS_OF_AUDIO:02d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{stem}.wav").symlink_to(tones / f"{number % N_AUDIO_FILES}.wav")
    return len(present)

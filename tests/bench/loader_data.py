"""The clips of `gst bench loader`: FLAC of a few seconds, in shards written by `gst-data prepare`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from data_prep.adapters.jsonl import METADATA_NAME
from pipeline.errors import TrainingError
from tests.bench.loader_peers.contract import decode, digest, members
from tests.bench.prepare_speed import Source, make_clip
from tests.launching import run_command

RATE_HZ = 16_000
RECORDINGS = 40  # that clips are cut from, at random places
SHARD_BYTES = 64 * 2**20  # of audio before compression is 16 bit; other loaders' own writers make files of this size
_SOURCE = Source("flac_16k_mono", "flac", RATE_HZ, 1, "PCM_16")


def write_shards(folder: Path, n_clips: int, least_s: float, most_s: float, seed: int) -> Path:
    """One prepared dataset, all of it for training; returns the folder of its shards."""
    corpus, shards = folder / "corpus", folder / "shards"
    corpus.mkdir(parents=True)
    rng = np.random.default_rng([seed, 1])
    recordings = [make_clip(_SOURCE, np.random.default_rng([seed, 2, k]), most_s)[:, 0] for k in range(RECORDINGS)]
    lines = []
    for number in range(n_clips):
        name = f"clip{number:06d}"
        audio = _cut(recordings[number % RECORDINGS], rng.uniform(least_s, most_s), rng)
        soundfile.write(corpus / f"{name}.flac", audio, RATE_HZ, subtype="PCM_16")
        line = {"id": name, "clip_id": name, "audio": f"{name}.flac", "dataset": "bench", "split": "train"}
        question = {"question": f"What is to be heard in recording {number}?", "answer": "tones and bursts of noise"}
        lines.append(json.dumps({**line, **question, "domain": "sound"}) + "\n")
    (corpus / METADATA_NAME).write_text("".join(lines))
    words = ["gst-data", "prepare", "--root", corpus, "--out", shards, "--corpus", "jsonl", "--jobs", 1]
    words += ["--val-fraction", 0, "--test-fraction", 0, "--max-shard-bytes", SHARD_BYTES]
    done = run_command(*words, timeout_s=3600)
    if done.returncode:
        raise TrainingError(f"the clips could not be prepared: {(done.stdout + done.stderr)[-2000:]}")
    return shards


def expected_digests(shards: Path) -> dict[str, str]:
    """Clip -> digest of what each loader must hand over, read from the shards by tarfile and soundfile alone."""
    asked = ((flac, clip["id"], clip["qa"][0]) for flac, clip in members(shards))
    return {name: digest(decode(flac), qa["question"], qa["answer"]) for flac, name, qa in asked}


def _cut(recording: NDArray[np.float32], duration_s: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """A piece of it at a level of its own."""
    n = min(round(duration_s * RATE_HZ), len(recording))
    start = int(rng.integers(0, len(recording) - n + 1))
    return recording[start : start + n] * np.float32(rng.uniform(0.3, 1.0))

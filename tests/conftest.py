"""Small real things that many tests share: corpora of tones, their shards, a tiny model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

RATE_HZ = 16_000
# dataset -> (domain, question, answers in order of rising pitch)
TONE_CORPORA = {
    "height": ("music", "How high is the tone?", ("low", "middle", "high")),
    "colour": ("sound", "Which colour has this sound?", ("red", "green", "blue")),
    "animal": ("speech", "Which animal is it?", ("a bear", "a cat", "a bird")),
    "number": ("speech", "Which number do you hear?", ("one", "two", "three")),
}


def write_tone_corpora(out: Path, train: int = 24, held_out: int = 6) -> Path:
    """Four corpora in `metadata.jsonl` form whose answer is the pitch of a noisy tone."""
    for number, (dataset, (domain, question, answers)) in enumerate(TONE_CORPORA.items()):
        rng = np.random.default_rng(number)
        folder = out / dataset
        (folder / "audio").mkdir(parents=True)
        lines = []
        for split, count in (("train", train), ("val", held_out), ("test", held_out)):
            for index in range(count):
                pitch = index % len(answers)
                t = np.arange(int(RATE_HZ * rng.uniform(0.4, 0.9))) / RATE_HZ
                tone = 0.3 * np.sin(2 * np.pi * 220 * 3**pitch * t) + 0.02 * rng.normal(size=len(t))
                name = f"audio/{dataset}-{split}-{index:03d}.flac"
                soundfile.write(folder / name, tone, RATE_HZ)
                lines.append(
                    {"id": f"{dataset}-{split}-{index:03d}", "audio": name, "dataset": dataset, "split": split,
                     "question": question, "answer": answers[pitch], "domain": domain}
                )  # fmt: skip
        (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


@pytest.fixture(scope="session")
def tone_corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tone_corpora(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session")
def tone_shards(tone_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.launching import run_command

    out = tmp_path_factory.mktemp("prepared") / "shards"
    done = run_command("gst-data", "prepare", "--root", tone_corpora, "--corpus", "jsonl", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="session")
def tiny_model(tone_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pipeline.cli.model import train_texts
    from pipeline.models.tiny import write_tiny_model

    out = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model("qwen2_audio", train_texts(tone_shards), out, vocab_size=400, width=32)
    return out

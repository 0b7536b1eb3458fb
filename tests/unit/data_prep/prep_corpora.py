"""Small corpora on disk, in the generic layout, made of noise that differs from clip to clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray


def noise(seconds: float, rate_hz: int = 16_000, channels: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """Noise of [T] or [T, channels], well below full scale."""
    shape = (round(seconds * rate_hz), channels)
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)
    return samples[:, 0] if channels == 1 else samples


def line(index: int, split: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"clip.{index:03d}",
        "audio": f"audio/{index:03d}.wav",
        "dataset": "noises",
        "split": split,
        "question": "What is heard?",
        "answer": ("noise", "yes", "a long hiss of the sea")[index % 3],
        "domain": "sound",
        **changes,
    }


def write_lines(folder: Path, lines: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")


def write_corpus(
    folder: Path, *, train: int = 8, val: int = 2, test: int = 2, seconds: float = 0.3, rate_hz: int = 16_000
) -> Path:
    """A corpus folder with so many clips a split."""
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    lines = [line(index, split) for index, split in enumerate(splits)]
    write_lines(folder, lines)
    (folder / "audio").mkdir(exist_ok=True)
    for index, value in enumerate(lines):
        soundfile.write(folder / value["audio"], noise(seconds, rate_hz, seed=index), rate_hz, subtype="PCM_16")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, hidden ones too, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }

"""Files of tiny corpora: noise, tables, JSON, and the litter that real copies hold."""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

SAMPLE_RATE_HZ = 16_000


def wav(path: Path, seconds: float = 0.2) -> Path:
    """A real, very short audio file, noise that depends on its path; the format follows the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(zlib.crc32(bytes(path))).uniform(-0.5, 0.5, int(seconds * SAMPLE_RATE_HZ))
    soundfile.write(path, noise.astype(np.float32), SAMPLE_RATE_HZ)
    return path


def text(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(encoding))
    return path


def table(
    path: Path, rows: Iterable[Sequence[object]], *, line_end: str = "\n", delimiter: str = ",", encoding: str = "utf-8"
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, lineterminator=line_end, delimiter=delimiter).writerows(rows)
    return path


def litter(path: Path) -> None:
    """What macOS leaves beside a file: not audio, whatever its suffix says."""
    text(path.with_name(f"._{path.name}"), "Mac OS X")


def dump(path: Path, value: Any) -> Path:
    return text(path, json.dumps(value, ensure_ascii=False, indent=1))

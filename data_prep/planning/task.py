"""One shard's work order, small enough to send to any process or machine that sees the same folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.adapters.base import SourceClip
from data_prep.audio.load import AudioOptions
from data_prep.planning.spool import read_clip_line

STATES = (
    "ok",
    "missing",
    "unreadable",
    "truncated",
    "empty",
    "too_short",
    "too_long",
    "silent",
    "bad_annotation",
    "blacklisted",
    "duplicate",
)
POSITION_DIGITS = 5


@dataclass(frozen=True)
class ShardTask:
    """All that is needed to write one shard. `root` is the corpus folder, `folder` the output of the dataset.

    The clips are the `n_clips` lines of `clips_file` from byte `offset` on.
    """

    dataset: str
    split: str
    index: int
    plan_hash: str
    domain: str
    root: Path
    folder: Path
    clips_file: Path
    offset: int
    n_clips: int
    audio: AudioOptions

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.split}-{self.index:06d}"

    @property
    def tar(self) -> Path:
        return self.folder / f"{self.name}.tar"

    @property
    def side(self) -> Path:
        return self.folder / f"{self.name}.json"

    def clips(self) -> list[SourceClip]:
        """The planned clips, in their order; OSError when the plan is gone."""
        with open(self.clips_file, "rb") as file:
            file.seek(self.offset)
            return [read_clip_line(file.readline(), self.split, self.root) for _ in range(self.n_clips)]

    def key(self, position: int, window: int = 0) -> str:
        """Key of a window of the clip at a planned position: it stays the same when a neighbour is quarantined."""
        return f"{self.name}-{position * windows_per_clip(self.audio) + window:0{POSITION_DIGITS}d}"


@dataclass(frozen=True)
class ShardDone:
    """What one finished shard holds: clips per state, windows and bytes written."""

    name: str
    states: dict[str, int]
    n_samples: int
    n_bytes: int


def windows_per_clip(audio: AudioOptions) -> int:
    """The most samples that one clip can become."""
    return audio.max_windows if audio.long_clips == "split" else 1


def quarantine_record(clip: SourceClip, root: Path, *, state: str, reason: str, stage: str) -> dict[str, Any]:
    """One line of `quarantine.jsonl`; paths are relative to the corpus, so that it is the same on every machine."""
    assert state in STATES, state
    audio = relative(clip.audio, root)
    return {
        "id": as_utf8(clip.id),
        "split": clip.split,
        "state": state,
        "reason": as_utf8(reason),
        "stage": stage,
        "audio": None if audio is None else as_utf8(audio),
        "questions": len(clip.qa),
    }


def as_utf8(text: str) -> str:
    """Half characters (names of files in another encoding, broken JSON escapes) as visible escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def relative(path: Path | None, root: Path) -> str | None:
    return None if path is None else Path(os.path.relpath(path, root)).as_posix()

"""An adapter whose clips a test gives, and clips for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import soundfile
from prep_corpora import noise

from data_prep.adapters.base import NO_OPTIONS, AdapterOptions, Findings, SourceClip
from pipeline.types import Qa

QUESTION = (Qa("q", "qa", "What?", "that"),)


@dataclass
class GivenClips:
    """An adapter whose clips are given; all share one audio file unless they bring their own."""

    given: list[SourceClip]
    name: str = "given"
    domain: str = "sound"
    licence: str = "none"
    version: int = 1
    options: AdapterOptions = NO_OPTIONS

    def with_options(self, values: Mapping[str, str]) -> GivenClips:
        return self

    def find(self, root: Path) -> Path | None:
        return root

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        yield from self.given


def make_clips(root: Path, count: int, split: str = "train", **fields: object) -> list[SourceClip]:
    """Clips with a file each, which is no audio: enough for a plan."""
    clips = []
    for index in range(count):
        path = root / f"{index}.wav"
        path.write_bytes(bytes(100))
        clips.append(SourceClip(f"c{index}", split, QUESTION, path, **fields))  # type: ignore[arg-type]
    return clips


def audible(root: Path, name: str, split: str = "train", **source_keys: str) -> SourceClip:
    """A clip with real audio."""
    path = root / f"{name}.wav"
    soundfile.write(path, noise(0.3, seed=len(name)), 16_000)
    return SourceClip(name, split, QUESTION, path, source_keys=source_keys)

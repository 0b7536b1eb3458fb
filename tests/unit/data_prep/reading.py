"""Read a tiny corpus the way `gst-data prepare` does, and look at its clips."""

from __future__ import annotations

from pathlib import Path

import corpus_fixtures as fixtures

from data_prep.adapters import ADAPTERS
from data_prep.adapters.base import Findings, SourceClip


def read(name: str, root: Path, found: Findings | None = None, **options: str) -> dict[str, SourceClip]:
    """Build nothing, find and read: the clips of a corpus by id."""
    adapter = ADAPTERS[name].with_options(options)
    folder = adapter.find(root)
    assert folder is not None
    clips = list(adapter.clips(folder, found or Findings()))
    by_id = {clip.id: clip for clip in clips}
    assert len(by_id) == len(clips), "clip ids are not unique"
    return by_id


def built(name: str, root: Path, found: Findings | None = None, **options: str) -> dict[str, SourceClip]:
    fixtures.BUILDERS[name](root)
    return read(name, root, found, **options)


def answers(clip: SourceClip) -> dict[str, str]:
    return {qa.id.removeprefix(f"{clip.id}/"): qa.answer for qa in clip.qa}


def audio_name(clip: SourceClip) -> str:
    assert clip.audio is not None and clip.audio.is_file()
    return clip.audio.name


def splits_of(clips: dict[str, SourceClip]) -> dict[str, str]:
    return {id: clip.split for id, clip in clips.items()}

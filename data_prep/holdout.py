"""Validation and test splits for corpora that have none: a share of train, by source recording, never by question."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from data_prep.adapters.base import SourceClip

# A recording with many clips may overshoot the wanted share by this factor, not more, unless all are that large.
_OVERSHOOT = 1.5

Recording = list[SourceClip]


def hold_out(
    splits: Mapping[str, list[SourceClip]], fractions: Mapping[str, float], *, salt: str
) -> tuple[dict[str, list[SourceClip]], list[str]]:
    """Fill each empty split named in `fractions` from train; returns the splits and notes for the manifest.

    Recordings are taken in the order of a keyed hash until the share is reached, so that the choice depends on nothing
    but the corpus and `salt`. At least one recording goes to the split and at least one stays in train.
    """
    result = {split: list(clips) for split, clips in splits.items()}
    wanted = {split: fraction for split, fraction in fractions.items() if fraction > 0 and not result[split]}
    notes: list[str] = []
    n_train = len(result["train"])
    if not n_train or not wanted:
        return result, notes
    recordings = sorted(_by_recording(result["train"]), key=lambda recording: _rank(recording, salt))
    for split, fraction in wanted.items():
        chosen, recordings = _choose(recordings, fraction * n_train)
        if not chosen:
            notes.append(f"no {split} split: the corpus has none, and too few recordings to hold one out")
            continue
        result[split] = [replace(clip, split=split) for recording in chosen for clip in recording]
        notes.append(
            f"no official {split} split: {len(result[split])} clips of {len(chosen)} recordings held out of train"
        )
    result["train"] = [clip for recording in recordings for clip in recording]
    return result, notes


def _choose(recordings: list[Recording], wanted_clips: float) -> tuple[list[Recording], list[Recording]]:
    """About `wanted_clips` clips in whole recordings, and the recordings that are left."""
    if len(recordings) < 2:
        return [], recordings
    most = max(wanted_clips * _OVERSHOOT, 1)
    chosen: list[Recording] = []
    rest: list[Recording] = []
    n_chosen = 0
    for recording in recordings:
        if n_chosen < wanted_clips and n_chosen + len(recording) <= most:
            chosen.append(recording)
            n_chosen += len(recording)
        else:
            rest.append(recording)
    if not chosen:
        smallest = min(range(len(rest)), key=lambda index: len(rest[index]))
        chosen.append(rest.pop(smallest))
    return chosen, rest


def _by_recording(clips: list[SourceClip]) -> list[Recording]:
    """Clips that share an audio file or any source key, directly or through others, are one recording (union-find)."""
    parent = list(range(len(clips)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_with: dict[tuple[str, str], int] = {}
    for index, clip in enumerate(clips):
        for token in (("audio file", str(clip.audio)), *clip.source_keys.items()):
            parent[root(index)] = root(first_with.setdefault(token, index))
    recordings: dict[int, Recording] = {}
    for index, clip in enumerate(clips):
        recordings.setdefault(root(index), []).append(clip)
    return list(recordings.values())


def _rank(recording: Recording, salt: str) -> tuple[bytes, str]:
    name = min(clip.id for clip in recording)
    return hashlib.sha256(f"{salt}/{name}".encode()).digest(), name

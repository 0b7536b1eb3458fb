"""Validation and test splits for corpora that have none: a share of train, by source recording, never by question."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from data_prep.planning.spool import Spool

# A recording with many clips may overshoot the wanted share by this factor, not more, unless all are that large.
_OVERSHOOT = 1.5

Recording = list[int]


def hold_out(spool: Spool, corpus: str, fractions: Mapping[str, float], *, salt: str) -> list[str]:
    """Fill each empty split named in `fractions` from train; returns notes for the manifest.

    Recordings are taken in the order of a keyed hash until the share is reached, so that the choice depends on nothing
    but the corpora and `salt`. Those that another corpus has too are taken last: holding them out would cost that
    corpus its training clips. At least one recording goes to the split and at least one stays in train.
    """
    sizes = spool.split_sizes(corpus)
    wanted = {split: fraction for split, fraction in fractions.items() if fraction > 0 and not sizes.get(split)}
    notes: list[str] = []
    n_train = sizes.get("train", 0)
    if not n_train or not wanted:
        return notes
    recordings = _by_recording(spool.recordings(corpus, "train"), spool.shared(corpus), salt)
    for split, fraction in wanted.items():
        chosen, recordings = _choose(recordings, fraction * n_train)
        if not chosen:
            notes.append(f"no {split} split: the corpus has none, and too few recordings to hold one out")
            continue
        numbers = [number for recording in chosen for number in recording]
        spool.move(numbers, split)
        notes.append(f"no official {split} split: {len(numbers)} clips of {len(chosen)} recordings held out of train")
    return notes


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


def _by_recording(clips: Iterable[tuple[int, str, list[str]]], shared: set[str], salt: str) -> list[Recording]:
    """Clips that share a name of their recording, directly or through others, are one recording (union-find).

    In the order of a keyed hash of the smallest clip id; the recordings with a `shared` name after all others.
    """
    numbers: list[int] = []
    parent: list[int] = []
    first_with: dict[str, int] = {}
    names: list[str] = []
    is_shared: list[bool] = []

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, (number, clip_id, tokens) in enumerate(clips):
        numbers.append(number)
        names.append(clip_id)
        is_shared.append(not shared.isdisjoint(tokens))
        parent.append(index)
        for token in tokens:
            parent[root(index)] = root(first_with.setdefault(token, index))
    recordings: dict[int, list[int]] = {}
    for index in range(len(numbers)):
        recordings.setdefault(root(index), []).append(index)

    def rank(members: list[int]) -> tuple[bool, bytes, str]:
        name = min(names[index] for index in members)
        return any(is_shared[index] for index in members), hashlib.sha256(f"{salt}/{name}".encode()).digest(), name

    return [[numbers[index] for index in members] for members in sorted(recordings.values(), key=rank)]

"""Overlap between what is trained on and what is held out, found in prepared shards: by recording and by content.

`data_prep.planning.leakage` keeps leaks out while shards are planned; here nothing is taken on trust, the shards
themselves are read. Held-out splits come first, so that each training clip needs one look-up and is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.look.reader import choose_datasets, read_clips, read_side
from data_prep.planning.leakage_keys import recording_keys
from pipeline.data.manifest import DatasetManifest, ShardEntry

TRAIN = "train"
_EXAMPLES = 3

Recordings = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Leak:
    """A training clip of a recording (`kind`, `value`: "youtube", "abc") that `held_dataset` holds out."""

    kind: str
    value: str
    train_dataset: str
    clip_id: str
    held_dataset: str
    held_split: str


@dataclass(frozen=True)
class ShardPlace:
    """One shard of the manifests."""

    dataset: str
    split: str
    tar: Path
    entry: ShardEntry


class LeakSearch:
    """First `hold` every held-out clip, then ask for the `leaks` of every training clip."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def hold(self, dataset: str, split: str, recordings: Recordings) -> None:
        for recording in recordings:
            places = self._held.setdefault(recording, [])
            if (dataset, split) not in places:
                places.append((dataset, split))

    def leaks(self, dataset: str, clip_id: str, recordings: Recordings) -> Iterator[Leak]:
        for kind, value in recordings:
            for held_dataset, held_split in self._held.get((kind, value), ()):
                yield Leak(kind, value, dataset, clip_id, held_dataset, held_split)


@dataclass
class SameAudio:
    """Clips whose FLAC bytes are those of another clip. Held-out clips have to be added before training clips.

    `leaks` and `repeats` map (dataset, split of the later clip, dataset, split of the first) to their pairs of ids;
    leaks are training clips with the audio of a held-out one.
    """

    leaks: dict[tuple[str, str, str, str], list[tuple[str, str]]] = field(default_factory=dict)
    repeats: dict[tuple[str, str, str, str], list[tuple[str, str]]] = field(default_factory=dict)
    _first: dict[bytes, tuple[str, str, str]] = field(default_factory=dict)

    def add(self, dataset: str, split: str, clip_id: str, audio_sha256: bytes) -> None:
        first = self._first.setdefault(audio_sha256, (dataset, split, clip_id))
        if first == (dataset, split, clip_id):
            return
        found = self.leaks if split == TRAIN and first[1] != TRAIN else self.repeats
        found.setdefault((dataset, split, *first[:2]), []).append((clip_id, first[2]))


def find_leaks(shards: Path) -> list[Leak]:
    """Every training clip whose recording some dataset, its own too, has in val or test; in the order of the shards.

    Raises:
        ShardError: no dataset there, or a shard that cannot be read.
    """
    search = LeakSearch()
    found: list[Leak] = []
    for place in held_out_first(choose_datasets(shards).values(), shards):
        for _, clip in read_clips(place.tar, read_side(place.tar).samples):
            recordings = tuple(recording_keys(clip.source_keys))
            if place.split == TRAIN:
                found += search.leaks(place.dataset, clip.id, recordings)
            else:
                search.hold(place.dataset, place.split, recordings)
    return found


def held_out_first(manifests: Iterable[DatasetManifest], shards: Path) -> list[ShardPlace]:
    """All listed shards below the folder `shards`, those of the training splits last."""
    places = [
        ShardPlace(manifest.dataset, split, shards / manifest.dataset / entry.file, entry)
        for manifest in manifests
        for split, split_entry in manifest.splits.items()
        for entry in split_entry.shards
    ]
    return sorted(places, key=lambda place: place.split == TRAIN)


def leak_lines(leaks: Iterable[Leak]) -> Iterator[str]:
    """One line for each training dataset, held-out dataset and kind of key."""
    groups: dict[tuple[str, str, str], list[Leak]] = {}
    for leak in leaks:
        groups.setdefault((leak.train_dataset, leak.held_dataset, leak.kind), []).append(leak)
    for (train, held, kind), group in groups.items():
        n_clips = len({leak.clip_id for leak in group})
        examples = _examples([f"{leak.value} (clip {leak.clip_id}; {leak.held_split})" for leak in group])
        yield f"{train}: leak by {kind}: {_clips(n_clips)} of train are recordings held out in {held}: {examples}"


def same_audio_lines(pairs_by_place: dict[tuple[str, str, str, str], list[tuple[str, str]]]) -> Iterator[str]:
    """One line for each pair of splits with clips of equal audio."""
    for (dataset, split, first_dataset, first_split), pairs in pairs_by_place.items():
        examples = _examples([f"{clip_id} = {first_id}" for clip_id, first_id in pairs])
        yield (
            f"{dataset}: same audio: {_clips(len(pairs))} of {split} in {first_dataset} {first_split} too: {examples}"
        )


def _clips(count: int) -> str:
    return "1 clip" if count == 1 else f"{count} clips"


def _examples(all_of_them: list[str]) -> str:
    more = len(all_of_them) - _EXAMPLES
    return ", ".join(all_of_them[:_EXAMPLES]) + (f", and {more} more" if more > 0 else "")

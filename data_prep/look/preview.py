"""A page to look at and listen to what was prepared: some clips of every split with players, questions and losses.

The page is one file that needs no network. Which clips it shows depends on nothing but the seed and their ids.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.look.preview_page import DatasetView, render_clip, render_page
from data_prep.look.reader import choose_datasets, read_audio, read_clips, read_quarantine, read_side
from data_prep.output import writing
from pipeline.atomic import write_atomic
from pipeline.data.manifest import DatasetManifest, SampleEntry
from pipeline.errors import ConfigError

DEFAULT_MAX_BYTES = 64 * 2**20
# Browsers refuse more than about a thousand players on one page.
_MAX_PLAYERS = 900
_EXAMPLES_PER_STATE = 3
# The sentence about what was left out is only known at the end.
_RESERVED_BYTES = 2048


@dataclass(frozen=True)
class PreviewSummary:
    """What the page shows. `clips_without_audio` are shown with their questions only, `clips_left_out` not at all."""

    datasets: int
    clips: int
    clips_without_audio: int
    clips_left_out: int
    n_bytes: int

    def __str__(self) -> str:
        lost = {"without audio": self.clips_without_audio, "left out": self.clips_left_out}
        more = "".join(f", {count} {what}" for what, count in lost.items() if count)
        return f"{self.clips} clips of {self.datasets} datasets{more}, {self.n_bytes / 2**20:.1f} MiB"


@dataclass
class _Room:
    """What is left of the page's size limit, and what did not fit."""

    n_bytes: int
    players: int = _MAX_PLAYERS
    shown: int = 0
    without_audio: int = 0
    left_out: int = 0

    def take(self, with_audio: str, without_audio: str) -> str:
        """The longer of two forms of a clip that still fits, or nothing."""
        if self.players > 0 and _bytes(with_audio) <= self.n_bytes:
            self.players -= 1
            form = with_audio
        elif _bytes(without_audio) <= self.n_bytes:
            self.without_audio += 1
            form = without_audio
        else:
            self.left_out += 1
            return ""
        self.shown += 1
        self.n_bytes -= _bytes(form)
        return form


@dataclass
class _Split:
    """The chosen clips of one split, best rank first, and their rendered forms."""

    dataset: str
    split: str
    chosen: list[tuple[Path, SampleEntry]]
    forms: list[str] = field(default_factory=list)


def write_preview(
    shards: Path,
    out: Path,
    *,
    clips_per_split: int = 4,
    seed: int = 14,
    datasets: Sequence[str] = (),
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> PreviewSummary:
    """Write the page about the complete datasets below `shards`, or those in `datasets`, to the file `out`.

    Every split gets its first clip before any gets its second. What exceeds `max_bytes` is left out: the audio of a
    clip first, then the clip; the page says so.

    Raises:
        ShardError: no dataset, an unknown one, a damaged file, or `out` cannot be written.
        ConfigError: a negative number.
    """
    for name, value in (("clips_per_split", clips_per_split), ("max_bytes", max_bytes)):
        if value < 0:
            raise ConfigError("a number must not be negative", where={"option": name}, got=value)
    manifests = choose_datasets(shards, datasets)
    views = {name: _view(manifest, shards / name) for name, manifest in manifests.items()}
    splits = [
        _Split(name, split, _choose(manifest, split, shards, clips_per_split, seed))
        for name, manifest in manifests.items()
        for split in manifest.splits
    ]
    title = f"Preview of {shards.resolve().name}"
    frame = render_page(title, "", views.values(), {})
    room = _Room(max_bytes - _bytes(frame) - _RESERVED_BYTES)
    for rank in range(clips_per_split):
        for split in splits:
            if rank < len(split.chosen):
                split.forms.append(_render(split, rank, room))
    clips = {(split.dataset, split.split): "".join(split.forms) for split in splits}
    page = render_page(title, _remark(room, max_bytes, seed), views.values(), clips).encode()
    _write(out, page)
    return PreviewSummary(len(views), room.shown, room.without_audio, room.left_out, len(page))


def _view(manifest: DatasetManifest, folder: Path) -> DatasetView:
    """The facts of one dataset; of its quarantine file only counts and a few examples stay in memory."""
    lost: Counter[tuple[str, str]] = Counter()
    examples: dict[str, list[dict[str, Any]]] = {}
    for record in read_quarantine(folder):
        state = record["state"]
        lost[str(record.get("split")), state] += 1
        if len(examples.setdefault(state, [])) < _EXAMPLES_PER_STATE:
            examples[state].append(record)
    return DatasetView(manifest, lost, [record for records in examples.values() for record in records])


def _choose(
    manifest: DatasetManifest, split: str, shards: Path, count: int, seed: int
) -> list[tuple[Path, SampleEntry]]:
    """`count` clips of a split by a keyed hash of their ids: a sample that does not depend on the shards' order."""

    def candidates() -> Iterator[tuple[bytes, Path, SampleEntry]]:
        for shard in manifest.splits[split].shards:
            tar = shards / manifest.dataset / shard.file
            for sample in read_side(tar).samples:
                text = f"preview/{seed}/{manifest.dataset}/{sample.clip_id}"
                yield hashlib.sha256(text.encode()).digest(), tar, sample

    best = heapq.nsmallest(count, candidates(), key=lambda candidate: (candidate[0], candidate[2].key))
    return [(tar, sample) for _, tar, sample in best]


def _render(split: _Split, rank: int, room: _Room) -> str:
    tar, sample = split.chosen[rank]
    (_, clip), flac = next(read_clips(tar, [sample])), read_audio(tar, sample)
    return room.take(*render_clip(clip, sample, flac))


def _remark(room: _Room, max_bytes: int, seed: int) -> str:
    """One sentence on how the clips were chosen, and what is not on the page."""
    text = f"{room.shown} clips, chosen by a keyed hash of their ids (seed {seed})."
    if room.without_audio:
        text += f" Without audio: {room.without_audio}."
    if room.left_out:
        text += f" Left out: {room.left_out}."
    if room.without_audio or room.left_out:
        text += f" The page is limited to {max_bytes / 2**20:.4g} MiB and {_MAX_PLAYERS} players; choose fewer datasets"
        text += " or clips to hear all of them."
    return text


def _bytes(text: str) -> int:
    return len(text.encode())


def _write(out: Path, page: bytes) -> None:
    with writing("the preview", out, "give the name of a file in a folder that can be written: --out preview.html"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, page)

"""The plan of one dataset: which clip goes into which shard, decided before any audio is decoded.

The same corpus and options give the same plan and the same `plan_hash`, whatever the number of workers; a shard carries
the hash, so that a restart knows which shards are already the planned ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.adapters.base import Adapter, SourceClip
from data_prep.audio import AudioOptions
from data_prep.holdout import hold_out
from pipeline.data.manifest import DATASET_NAME, MANIFEST_VERSION
from pipeline.errors import ConfigError, CorpusError, nearest
from pipeline.types import DOMAINS, SPLITS

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
_LOSSY_SUFFIXES = {".mp3", ".ogg", ".opus"}
_LOSSY_GROWTH = 3
_BYTES_PER_SAMPLE = 2
_POSITION_DIGITS = 5


@dataclass(frozen=True)
class PlanOptions:
    """All options that change what is written; every one is part of the plan hash.

    `val_fraction` and `test_fraction` apply to corpora without that split. `limit` keeps at most so many clips a split.
    """

    seed: int = 14
    max_clips_per_shard: int = 2000
    max_shard_bytes: int = 512 * 2**20
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    limit: int | None = None
    audio: AudioOptions = field(default_factory=AudioOptions)

    def __post_init__(self) -> None:
        checks = {
            "max_clips_per_shard": 1 <= self.max_clips_per_shard <= 10**_POSITION_DIGITS,
            "max_shard_bytes": self.max_shard_bytes > 0,
            "val_fraction": 0 <= self.val_fraction < 0.5,
            "test_fraction": 0 <= self.test_fraction < 0.5,
            "limit": self.limit is None or self.limit > 0,
        }
        for name, is_good in checks.items():
            if not is_good:
                raise ConfigError("an option is out of range", where={"option": name}, got=getattr(self, name))


@dataclass(frozen=True)
class ShardTask:
    """All that is needed to write one shard, in any process. `root` is the corpus folder, `folder` the output."""

    dataset: str
    split: str
    index: int
    plan_hash: str
    domain: str
    root: Path
    folder: Path
    clips: tuple[SourceClip, ...]
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

    def key(self, position: int) -> str:
        """Key of the sample at a planned position: it stays the same when a neighbour is quarantined."""
        return f"{self.name}-{position:0{_POSITION_DIGITS}d}"


@dataclass(frozen=True)
class Plan:
    """One dataset, planned. `quarantined` are the clips that need no decoding to be refused."""

    dataset: str
    domain: str
    licence: str
    adapter: str
    root: Path
    folder: Path
    plan_hash: str
    shards: tuple[ShardTask, ...]
    quarantined: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    max_missing_fraction: float | None

    @property
    def n_clips(self) -> int:
        """Clips that will be decoded."""
        return sum(len(shard.clips) for shard in self.shards)


def make_plan(adapter: Adapter, root: Path, out: Path, options: PlanOptions) -> Plan:
    """Plan the corpus of `adapter` in `root`, to be written to the folder `out/<dataset>`.

    Raises:
        CorpusError: no clips, no audio at all, an unknown split or domain, or a dataset name that cannot be a tag.
    """
    _check_adapter(adapter)
    usable, sizes, quarantined = _sort_out(adapter, root)
    splits, notes = hold_out(
        {split: [clip for clip in usable if clip.split == split] for split in SPLITS},
        {"val": options.val_fraction, "test": options.test_fraction},
        salt=f"{options.seed}/{adapter.name}",
    )
    if options.limit is not None:
        notes.append(f"limited to {options.limit} clips a split")
    ordered = {split: _shuffled(clips, options, adapter.name) for split, clips in splits.items()}
    identity = {
        "format": MANIFEST_VERSION,
        "adapter": adapter.name,
        "adapter_version": adapter.version,
        "domain": adapter.domain,
        "options": asdict(options),
    }
    plan_hash = _hash(identity, ordered, sizes, quarantined, root)
    folder = out / adapter.name
    return Plan(
        dataset=adapter.name,
        domain=adapter.domain,
        licence=adapter.licence,
        adapter=f"{type(adapter).__name__} {adapter.version}",
        root=root,
        folder=folder,
        plan_hash=plan_hash,
        shards=tuple(
            ShardTask(adapter.name, split, index, plan_hash, adapter.domain, root, folder, tuple(clips), options.audio)
            for split, split_clips in ordered.items()
            for index, clips in enumerate(_cut(split_clips, sizes, options))
        ),
        quarantined=tuple(quarantined),
        notes=tuple(notes),
        max_missing_fraction=getattr(adapter, "max_missing_fraction", None),
    )


def quarantine_record(clip: SourceClip, root: Path, *, state: str, reason: str, stage: str) -> dict[str, Any]:
    """One line of `quarantine.jsonl`; paths are relative to the corpus, so that it is the same on every machine."""
    assert state in STATES, state
    audio = _relative(clip.audio, root)
    return {
        "id": _as_utf8(clip.id),
        "split": clip.split,
        "state": state,
        "reason": _as_utf8(reason),
        "stage": stage,
        "audio": None if audio is None else _as_utf8(audio),
        "questions": len(clip.qa),
    }


def _as_utf8(text: str) -> str:
    """Half characters (names of files in another encoding, broken JSON escapes) as visible escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _check_adapter(adapter: Adapter) -> None:
    if not DATASET_NAME.fullmatch(adapter.name):
        raise CorpusError(
            "a dataset name cannot be used as a tag",
            where={"corpus": adapter.name},
            expected="small ASCII letters, digits and _, beginning with a letter or digit",
        )
    if adapter.domain not in DOMAINS:
        raise CorpusError("unknown domain", where={"corpus": adapter.name}, got=adapter.domain, expected=DOMAINS)


def _sort_out(adapter: Adapter, root: Path) -> tuple[list[SourceClip], dict[str, int], list[dict[str, Any]]]:
    """Clips to decode, the size of their files by clip id, and records of the clips refused without decoding."""
    usable: list[SourceClip] = []
    sizes: dict[str, int] = {}
    refused: list[tuple[SourceClip, str, str]] = []
    seen: set[str] = set()
    for clip in _read_clips(adapter, root):
        state, reason = _first_state(clip, seen, adapter.name, root)
        seen.add(clip.id)
        n_bytes = _file_bytes(clip.audio) if state == "ok" else None
        if state == "ok" and n_bytes is None:
            state, reason = "missing", clip.reason or "no such file"
        if n_bytes is not None:
            usable.append(clip)
            sizes[clip.id] = n_bytes
        else:
            refused.append((clip, state, reason))
    if not usable:
        _raise_nothing_usable(adapter, root, refused)
    records = [quarantine_record(clip, root, state=s, reason=r, stage="plan") for clip, s, r in refused]
    return usable, sizes, records


def _read_clips(adapter: Adapter, root: Path) -> Iterator[SourceClip]:
    try:
        yield from adapter.clips(root)
    except OSError as error:
        raise CorpusError(
            f"a corpus cannot be read: {error.strerror}",
            where={"corpus": adapter.name, "file": error.filename or root},
        ) from error


def _file_bytes(path: Path | None) -> int | None:
    """Size of a regular file, None when it is not there."""
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else None


def _first_state(clip: SourceClip, seen: set[str], dataset: str, root: Path) -> tuple[str, str]:
    """State and reason of one clip as far as its annotation tells."""
    if clip.state != "ok":
        assert clip.state in STATES, f"{dataset}: state {clip.state!r}"
        return clip.state, clip.reason
    if clip.split not in SPLITS:
        guess = nearest(clip.split, SPLITS)
        raise CorpusError(
            "unknown split",
            where={"corpus": dataset, "folder": root, "clip": clip.id},
            got=repr(clip.split),
            expected=" ".join(SPLITS),
            hint=f"did you mean {guess!r}?" if guess else None,
        )
    if clip.id in seen:
        return "duplicate", "an earlier clip has the same id"
    if not clip.qa or any(not qa.question.strip() or not qa.answer.strip() for qa in clip.qa):
        return "bad_annotation", "a question or answer is missing or blank"
    if len({qa.id for qa in clip.qa}) < len(clip.qa):
        return "bad_annotation", "two questions have the same id"
    texts = [clip.id, *(text for qa in clip.qa for text in (qa.id, qa.question, qa.answer, *qa.answers))]
    if any(_as_utf8(text) != text for text in texts):
        return "bad_annotation", "an id, question or answer holds half a character"
    return "ok", ""


def _raise_nothing_usable(adapter: Adapter, root: Path, refused: list[tuple[SourceClip, str, str]]) -> None:
    where = {"corpus": adapter.name, "folder": root}
    if not refused:
        raise CorpusError("the annotations of a corpus name no clip", where=where)
    missing = [(clip, reason) for clip, state, reason in refused if state == "missing"]
    if not missing:
        raise CorpusError(
            "no clip of a corpus can be used",
            where=where,
            got=dict(Counter(state for _, state, _ in refused)),
            hint=f"the first reason was: {refused[0][0].id}: {refused[0][2]}",
        )
    looked_for = [_relative(clip.audio, root) or f"{clip.id} ({reason})" for clip, reason in missing[:3]]
    raise CorpusError(
        "no audio at all was found for a corpus",
        where=where,
        got=f"0 of {len(missing)} audio files",
        expected=f"files like {', '.join(looked_for)}",
        hint="give the folder that holds the audio too, or unpack its archives",
    )


def _shuffled(clips: list[SourceClip], options: PlanOptions, dataset: str) -> list[SourceClip]:
    """Clips in the order of a keyed hash of their ids: a seeded permutation that no library upgrade can change."""

    def rank(clip: SourceClip) -> tuple[bytes, str]:
        return hashlib.sha256(f"{options.seed}/{dataset}/{clip.id}".encode()).digest(), clip.id

    return sorted(clips, key=rank)[: options.limit]


def _cut(clips: list[SourceClip], sizes: dict[str, int], options: PlanOptions) -> Iterator[list[SourceClip]]:
    """Shards bounded by count and by estimated bytes."""
    shard: list[SourceClip] = []
    shard_bytes = 0
    for clip in clips:
        clip_bytes = _estimated_bytes(clip, sizes[clip.id], options.audio.sample_rate_hz)
        is_full = len(shard) == options.max_clips_per_shard or shard_bytes + clip_bytes > options.max_shard_bytes
        if shard and is_full:
            yield shard
            shard, shard_bytes = [], 0
        shard.append(clip)
        shard_bytes += clip_bytes
    if shard:
        yield shard


def _estimated_bytes(clip: SourceClip, file_bytes: int, sample_rate_hz: int) -> int:
    """Bytes the clip will need, without opening the file: its own size, or its window as PCM, which is more."""
    assert clip.audio is not None
    if clip.end_s is not None:
        return int((clip.end_s - (clip.start_s or 0.0)) * sample_rate_hz * _BYTES_PER_SAMPLE)
    growth = _LOSSY_GROWTH if clip.audio.suffix.lower() in _LOSSY_SUFFIXES else 1
    return file_bytes * growth


def _hash(
    identity: dict[str, Any],
    ordered: dict[str, list[SourceClip]],
    sizes: dict[str, int],
    quarantined: Iterable[dict[str, Any]],
    root: Path,
) -> str:
    """sha256 over options, every planned clip with the size of its file, and the refused ones."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        digest.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")

    add(identity)
    for clips in ordered.values():
        for clip in clips:
            source = {"audio": _relative(clip.audio, root), "n_bytes": sizes[clip.id]}
            add({**asdict(replace(clip, audio=None)), **source})
    for record in quarantined:
        add(record)
    return digest.hexdigest()


def _relative(path: Path | None, root: Path) -> str | None:
    return None if path is None else Path(os.path.relpath(path, root)).as_posix()

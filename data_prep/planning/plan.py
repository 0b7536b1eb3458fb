"""The plan of every dataset: which clip goes into which shard, decided before any audio is decoded.

The same corpora and options give the same plans and the same `plan_hash`, whatever the number of workers; a shard
carries the hash, so that a restart knows which shards are already the planned ones. All corpora of a run are planned
together, since a clip that one of them holds out must not be trained on in another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep.adapters.base import Adapter, Findings
from data_prep.audio.load import AudioOptions
from data_prep.planning import leakage
from data_prep.planning.holdout import hold_out
from data_prep.planning.plan_files import PlanFolder, PlannedShard, PlanRecord
from data_prep.planning.read import OnRead, raise_nothing_usable, read_corpus
from data_prep.planning.spool import Spool, read_clip_line
from data_prep.planning.task import (
    POSITION_DIGITS,
    ShardTask,
    quarantine_record,
    windows_per_clip,
)
from pipeline.data.manifest import DATASET_NAME, MANIFEST_VERSION
from pipeline.errors import ConfigError, CorpusError
from pipeline.types import DOMAINS, SPLITS

_LOSSY_SUFFIXES = {".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm"}
_LOSSY_GROWTH = 3
_BYTES_PER_SAMPLE = 2

Corpus = tuple[Adapter, Path]


@dataclass(frozen=True)
class PlanOptions:
    """All options that change what is written; every one is part of the plan hash.

    `val_fraction` and `test_fraction` apply to corpora without that split. `limit` keeps at most so many clips a split.
    `kinds_apart` are groups (speaker, session ...) that train must not share with what is held out, beside recordings.
    """

    seed: int = 14
    max_clips_per_shard: int = 2000
    max_shard_bytes: int = 512 * 2**20
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    limit: int | None = None
    kinds_apart: tuple[str, ...] = ()
    audio: AudioOptions = field(default_factory=AudioOptions)

    def __post_init__(self) -> None:
        most_clips = 10**POSITION_DIGITS // windows_per_clip(self.audio)
        checks = {
            "max_clips_per_shard": 1 <= self.max_clips_per_shard <= most_clips,
            "max_shard_bytes": self.max_shard_bytes > 0,
            "val_fraction": 0 <= self.val_fraction < 0.5,
            "test_fraction": 0 <= self.test_fraction < 0.5,
            "limit": self.limit is None or self.limit > 0,
        }
        for name, is_good in checks.items():
            if not is_good:
                raise ConfigError("an option is out of range", where={"option": name}, got=getattr(self, name))


@dataclass(frozen=True)
class Plan:
    """One dataset, planned: its record on disk, and where everything lies."""

    record: PlanRecord
    root: Path
    folder: Path
    audio: AudioOptions
    max_missing_fraction: float | None
    findings: tuple[str, ...] = ()

    @property
    def dataset(self) -> str:
        return self.record.dataset

    @property
    def plan_hash(self) -> str:
        return self.record.plan_hash

    @property
    def shards(self) -> list[ShardTask]:
        """The work orders, split by split."""
        clips_file = PlanFolder(self.folder).clips(self.plan_hash)
        return [
            ShardTask(
                dataset=self.dataset,
                split=shard.split,
                index=shard.index,
                plan_hash=self.plan_hash,
                domain=self.record.domain,
                root=self.root,
                folder=self.folder,
                clips_file=clips_file,
                offset=shard.offset,
                n_clips=shard.n_clips,
                audio=self.audio,
            )
            for shard in self.record.shards
        ]

    @property
    def n_clips(self) -> int:
        """Clips that will be decoded."""
        return sum(shard.n_clips for shard in self.record.shards)

    def refused(self) -> Iterator[dict[str, Any]]:
        """Records of the clips that need no decoding to be refused."""
        with open(PlanFolder(self.folder).refused(self.plan_hash), encoding="utf-8") as file:
            yield from map(json.loads, file)


def make_plans(
    corpora: Sequence[Corpus],
    out: Path,
    options: PlanOptions,
    *,
    excluded: leakage.Excluded | None = None,
    on_read: OnRead | None = None,
) -> list[Plan]:
    """Plan the corpora, each an adapter and its folder, to be written to the folders `out/<dataset>`.

    Args:
        excluded: recordings that must not be used at all, with the list that names them.
        on_read: called now and then with a dataset and how many of its clips have been read.

    Raises:
        CorpusError: no clips, no audio at all, an unknown split or domain, or a dataset name that cannot be a tag.
    """
    for adapter, _ in corpora:
        _check_adapter(adapter)
    names = [adapter.name for adapter, _ in corpora]
    findings = {name: Findings() for name in names}
    with Spool() as spool:
        for adapter, root in corpora:
            read_corpus(
                spool,
                adapter,
                root,
                seed=options.seed,
                kinds_apart=options.kinds_apart,
                excluded=excluded or {},
                found=findings[adapter.name],
                on_read=on_read,
            )
        spool.all_added()
        for adapter, root in corpora:
            if not spool.split_sizes(adapter.name):
                raise_nothing_usable(spool, adapter, root)
        fractions = {"val": options.val_fraction, "test": options.test_fraction}
        notes = {name: hold_out(spool, name, fractions, salt=f"{options.seed}/{name}") for name in names}
        removed = leakage.enforce(spool, names, out)
        return [
            _write(
                spool, adapter, root, out, options, excluded or {}, notes[adapter.name] + removed[adapter.name], found
            )
            for (adapter, root), found in zip(corpora, findings.values(), strict=True)
        ]


def make_plan(adapter: Adapter, root: Path, out: Path, options: PlanOptions) -> Plan:
    """`make_plans` of one corpus."""
    return make_plans([(adapter, root)], out, options)[0]


def load_plans(
    corpora: Sequence[Corpus], out: Path, options: PlanOptions, *, excluded: leakage.Excluded | None = None
) -> list[Plan]:
    """The plans that an earlier `make_plans` wrote, without reading the corpora again.

    Raises:
        ShardError: there is no plan yet.
        ConfigError: it was made with other options.
    """
    plans = []
    for adapter, root in corpora:
        folder = out / adapter.name
        record = PlanFolder(folder).read()
        if record.choices != _choices(adapter, options, excluded or {}):
            raise ConfigError(
                "the plan on disk was made with other options",
                where={"corpus": adapter.name, "folder": folder},
                hint="plan again without --reuse-plan",
            )
        plans.append(_plan(record, adapter, root, folder, options))
    return plans


def _check_adapter(adapter: Adapter) -> None:
    if not DATASET_NAME.fullmatch(adapter.name):
        raise CorpusError(
            "a dataset name cannot be used as a tag",
            where={"corpus": adapter.name},
            expected="small ASCII letters, digits and _, beginning with a letter or digit",
        )
    if adapter.domain not in DOMAINS:
        raise CorpusError("unknown domain", where={"corpus": adapter.name}, got=adapter.domain, expected=DOMAINS)


def _choices(adapter: Adapter, options: PlanOptions, excluded: leakage.Excluded) -> dict[str, Any]:
    """Everything that was chosen, by the user or by the code's version; part of the plan hash."""
    digest = hashlib.sha256("".join(f"{token}\n" for token in sorted(excluded)).encode()).hexdigest()
    return {
        "format": MANIFEST_VERSION,
        "adapter": adapter.name,
        "adapter_version": adapter.version,
        "adapter_options": adapter.options.model_dump(mode="json"),
        "domain": adapter.domain,
        "options": {**asdict(options), "kinds_apart": list(options.kinds_apart)},
        "excluded": digest if excluded else None,
    }


def _write(
    spool: Spool,
    adapter: Adapter,
    root: Path,
    out: Path,
    options: PlanOptions,
    excluded: leakage.Excluded,
    notes: list[str],
    found: Findings,
) -> Plan:
    """The plan of one corpus, onto disk; its hash covers the choices, every planned clip, and the refused ones."""
    name = adapter.name
    choices = _choices(adapter, options, excluded)
    digest = hashlib.sha256(json.dumps(choices, sort_keys=True).encode() + b"\n")
    folder = PlanFolder(out / name)
    if options.limit is not None:
        notes = [*notes, f"limited to {options.limit} clips a split"]
    with folder.write() as files:
        shards = []
        for split in SPLITS:
            for index, lines in enumerate(_cut(spool.ordered(name, split, options.limit), options)):
                shards.append(PlannedShard(split=split, index=index, offset=files.n_bytes, n_clips=len(lines)))
                digest.update(f"{split} {index} {len(lines)}\n".encode())
                for line in lines:
                    digest.update(line)
                    files.add_clip(line)
        states: Counter[str] = Counter()
        for state, reason, split, body in spool.refused(name):
            clip = read_clip_line(body, split, root)
            record = quarantine_record(clip, root, state=state, reason=reason, stage="plan")
            line = (json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n").encode()
            digest.update(line)
            files.add_refused(line)
            states[state] += 1
        plan_record = PlanRecord(
            dataset=name,
            domain=adapter.domain,
            licence=adapter.licence,
            adapter=f"{type(adapter).__name__} {adapter.version}",
            plan_hash=digest.hexdigest(),
            choices=choices,
            shards=shards,
            states=dict(states),
            notes=[*notes, *found.notes],
        )
        files.commit(plan_record, leakage.held_out_lines(spool, name))
    return _plan(plan_record, adapter, root, folder.dataset, options, tuple(found.lines()))


def _plan(
    record: PlanRecord, adapter: Adapter, root: Path, folder: Path, options: PlanOptions, found: tuple[str, ...] = ()
) -> Plan:
    return Plan(
        record=record,
        root=root,
        folder=folder,
        audio=options.audio,
        max_missing_fraction=getattr(adapter, "max_missing_fraction", None),
        findings=found,
    )


def _cut(clips: Iterator[tuple[int, str]], options: PlanOptions) -> Iterator[list[bytes]]:
    """Shards, as lines, bounded by count and by estimated bytes."""
    shard: list[bytes] = []
    shard_bytes = 0
    for n_bytes, body in clips:
        clip_bytes = _estimated_bytes(body, n_bytes, options.audio)
        is_full = len(shard) == options.max_clips_per_shard or shard_bytes + clip_bytes > options.max_shard_bytes
        if shard and is_full:
            yield shard
            shard, shard_bytes = [], 0
        # With the size of its file, so that a changed file changes the plan.
        shard.append(f'{body[:-1]}, "n_bytes": {n_bytes}}}\n'.encode())
        shard_bytes += clip_bytes
    if shard:
        yield shard


def _estimated_bytes(body: str, file_bytes: int, audio: AudioOptions) -> int:
    """Bytes a clip will need, without opening it: its own size, or its windows as PCM when that is less."""
    clip = json.loads(body)
    growth = _LOSSY_GROWTH if os.path.splitext(clip["audio"])[1].lower() in _LOSSY_SUFFIXES else 1  # noqa: PTH122
    estimate = file_bytes * growth
    pcm_bytes_per_s = audio.sample_rate_hz * _BYTES_PER_SAMPLE
    if clip["end_s"] is not None:
        estimate = int((clip["end_s"] - (clip["start_s"] or 0.0)) * pcm_bytes_per_s)
    if audio.long_clips != "keep":
        estimate = min(estimate, int(audio.window_s * windows_per_clip(audio) * pcm_bytes_per_s))
    return estimate

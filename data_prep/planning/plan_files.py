"""The plan on disk: `<dataset>/plan/`, so that any process or machine can take its share of the work.

plan.json                  PlanRecord: the shards, and what was chosen; written last
<hash>.clips.jsonl         every planned clip, in the order of the shards
<hash>.refused.jsonl       every clip that needs no decoding to be refused
held_out.tsv               recordings of the val and test splits, for the plans of other corpora
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict

from data_prep.output import writing
from data_prep.planning.leakage import HELD_OUT_NAME
from pipeline.atomic import take_name, temporary_path, write_atomic
from pipeline.data.manifest import read_model, write_model
from pipeline.types import Domain, Split

_RECORD = "plan.json"
_HASH_DIGITS = 16


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedShard(_Frozen):
    """One shard: `n_clips` lines of the clips file from byte `offset` on."""

    split: Split
    index: int
    offset: int
    n_clips: int


class PlanRecord(_Frozen):
    """What a plan is, without its clips. `states` counts those refused by the plan; `choices` are all options."""

    dataset: str
    domain: Domain
    licence: str
    adapter: str
    plan_hash: str
    choices: dict[str, Any]
    shards: list[PlannedShard]
    states: dict[str, int]
    notes: list[str]


class PlanFolder:
    """Where the plan of one dataset lies."""

    def __init__(self, dataset: Path) -> None:
        self.dataset = dataset
        self.path = dataset / "plan"

    def clips(self, plan_hash: str) -> Path:
        return self.path / f"{plan_hash[:_HASH_DIGITS]}.clips.jsonl"

    def refused(self, plan_hash: str) -> Path:
        return self.path / f"{plan_hash[:_HASH_DIGITS]}.refused.jsonl"

    def read(self) -> PlanRecord:
        """ShardError when there is no plan yet, or it is damaged."""
        return read_model(self.path / _RECORD, PlanRecord)

    @contextmanager
    def write(self) -> Iterator[PlanFiles]:
        """Files under temporary names until `commit`; without it nothing is left behind."""
        with writing("a plan", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            files = PlanFiles(self)
            try:
                yield files
            finally:
                files.close()

    def remove_others(self, plan_hash: str) -> None:
        """Delete the clips of earlier plans."""
        keep = {self.clips(plan_hash), self.refused(plan_hash)}
        for path in self.path.glob("*.jsonl"):
            if path not in keep:
                path.unlink(missing_ok=True)


class PlanFiles:
    """A plan being written. `n_bytes` is the size of the clips file so far."""

    def __init__(self, folder: PlanFolder) -> None:
        self._folder = folder
        self._clips, self._clips_path = self._temporary("clips")
        self._refused, self._refused_path = self._temporary("refused")
        self.n_bytes = 0

    def add_clip(self, line: bytes) -> None:
        self._clips.write(line)
        self.n_bytes += len(line)

    def add_refused(self, line: bytes) -> None:
        self._refused.write(line)

    def commit(self, record: PlanRecord, held_out: Iterable[str]) -> None:
        """Give the files their names, the record last. Two that plan the same write the same: races are harmless."""
        for file in (self._clips, self._refused):
            file.flush()
            os.fsync(file.fileno())
        take_name(self._clips_path, self._folder.clips(record.plan_hash))
        take_name(self._refused_path, self._folder.refused(record.plan_hash))
        write_atomic(self._folder.path / HELD_OUT_NAME, "".join(held_out).encode())
        write_model(self._folder.path / _RECORD, record)

    def close(self) -> None:
        for file, path in ((self._clips, self._clips_path), (self._refused, self._refused_path)):
            file.close()
            with suppress(OSError):
                path.unlink()

    def _temporary(self, name: str) -> tuple[BinaryIO, Path]:
        path = temporary_path(self._folder.path / name)
        return open(path, "wb"), path

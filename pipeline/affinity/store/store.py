"""The store itself: what `Transport` promises, on one folder. Many threads may share one store."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.affinity.compute import compute_version
from pipeline.affinity.estimator import GradientStats
from pipeline.affinity.payload import combine, load_contribution
from pipeline.affinity.records import (
    MAX_STEP,
    EventLine,
    ProbeRecord,
    ProbeStatus,
    RunRecord,
    RunStatus,
    SketchKey,
    VersionSummary,
)
from pipeline.affinity.store.blobs import BlobStore, sha256
from pipeline.affinity.store.database import Database
from pipeline.affinity.store.failures import plain_errors
from pipeline.affinity.store.lock import writer_lock
from pipeline.affinity.store.versions_index import VersionIndex
from pipeline.affinity.versions import AffinityVersion, inputs_digest
from pipeline.atomic import sync_folder
from pipeline.config.schema import AffinityConfig
from pipeline.errors import ConflictError, MissingError, PayloadError, did_you_mean

MAX_EVENT_BYTES = 256 * 2**10
_CACHED_PROBES = 64


@contextmanager
def open_store(folder: Path, *, wait_s: float = 0.0, url: str | None = None) -> Iterator[AffinityStore]:
    """The store in `folder`, made if need be, for its only writer.

    Args:
        wait_s: how long to wait for another writer.
        url: where this writer can be reached, when it is a service; others are told.

    Raises:
        StoreBusyError: another writer still holds the store; `where["url"]` is its address when it has one.
        StoreFullError, AffinityError: the folder or its database cannot be used.
    """
    with plain_errors(folder):
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)
    with writer_lock(folder, wait_s=wait_s, url=url):
        database = Database(folder / "store.db")
        try:
            yield AffinityStore(folder, database)
        finally:
            database.close()


class AffinityStore:
    """Runs, probes, sketches, versions and events in one folder; `open_store` makes it.

    Every method that writes is idempotent, and durable when it returns. Raises as `transport.Transport` says.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self._database = database
        self._blobs = BlobStore(folder / "blobs")
        self._blobs.prepare()
        self._versions = VersionIndex(folder, database)
        self._versions.refresh()
        self._probes: dict[tuple[str, int], ProbeRecord] = {}  # declared probes never change
        self._grouping = threading.Lock()  # one at a time: each may need a large part of the memory

    def declare_run(self, run: RunRecord) -> bool:
        """As `Transport` says; ConflictError names the fields in which a known run of this name differs."""
        with self._database.transaction() as connection:
            row = connection.execute("SELECT record FROM runs WHERE name = ?", (run.name,)).fetchone()
            if row is None:
                connection.execute(
                    "INSERT INTO runs (name, record, declared) VALUES (?, ?, ?)",
                    (run.name, run.model_dump_json(), _now()),
                )
                return True
        stored = RunRecord.model_validate_json(row[0])
        _require_equal(stored, run, {"run": run.name}, hint="another run needs another name")
        return False

    def declare_probe(self, probe: ProbeRecord) -> bool:
        """As `Transport` says. `cost` may differ between contributors; that of the first is kept."""
        where = {"run": probe.run, "step": probe.step}
        k = probe.spec.get("k")
        if type(k) is not int or k < 1:
            raise PayloadError("a probe's kind of sketch must say its size", where=where, got=probe.spec, expected="k")
        self._require_run(probe.run)
        with self._database.transaction() as connection:
            key = (probe.run, probe.step)
            row = connection.execute("SELECT record FROM probes WHERE run = ? AND step = ?", key).fetchone()
            if row is None:
                connection.execute("INSERT INTO probes VALUES (?, ?, ?, ?)", (*key, probe.model_dump_json(), _now()))
                return True
        stored = ProbeRecord.model_validate_json(row[0])
        _require_equal(stored, probe.model_copy(update={"cost": stored.cost}), where, hint="push it as another run")
        return False

    def push(self, key: SketchKey, payload: bytes) -> bool:
        """As `Transport` says; the payload is checked before anything is written, and is on disk when this returns.

        Raises:
            PayloadError: damaged, too large, not finite, or sketches of another dataset or kind than declared.
            ConflictError: other bytes are stored under this key.
            MissingError: the run or the probe was not declared.
        """
        where = {"run": key.run, "step": key.step, "dataset": key.dataset, "contributor": key.contributor}
        probe = self._declared(key.run, key.step)
        for what, name, known in (
            ("dataset", key.dataset, probe.datasets),
            ("contributor", key.contributor, probe.contributors),
        ):
            if name not in known:
                raise PayloadError(f"the probe has no such {what}", where=where, hint=did_you_mean(name, known))
        digest = sha256(payload)
        if self._pushed(key) != digest:
            load_contribution(payload, dataset=key.dataset, spec=probe.spec, groups=probe.groups)
        if key.spec != probe.spec_digest:
            raise PayloadError(
                "sketches announced as of another kind than the probe's",
                where=where,
                got=key.spec,
                expected=probe.spec_digest,
            )
        _require_same_bytes(self._pushed(key), digest, where)
        self._blobs.write(payload)
        with self._database.transaction() as connection:
            done = connection.execute(
                "INSERT OR IGNORE INTO pushes VALUES (?, ?, ?, ?, ?, ?, ?)",
                (key.run, key.step, key.dataset, key.contributor, digest, len(payload), _now()),
            )
        if not done.rowcount:  # it was there, or another thread was faster
            _require_same_bytes(self._pushed(key), digest, where)
        return bool(done.rowcount)

    def runs(self) -> list[RunStatus]:
        return self._run_statuses("SELECT name, record, declared FROM runs ORDER BY number", ())

    def run(self, name: str) -> RunStatus:
        """One run.

        Raises:
            MissingError: no such run.
        """
        self._require_run(name)
        return self._run_statuses("SELECT name, record, declared FROM runs WHERE name = ?", (name,))[0]

    def _run_statuses(self, query: str, values: tuple[str, ...]) -> list[RunStatus]:
        found = self._database.rows(query, values)
        steps: dict[str, list[int]] = {}
        for run, step in self._database.rows("SELECT run, step FROM probes ORDER BY run, step"):
            steps.setdefault(run, []).append(step)
        return [
            RunStatus(
                run=RunRecord.model_validate_json(record),
                declared=declared,
                events=self._last_position(name),
                probes=tuple(steps.get(name, ())),
            )
            for name, record, declared in found
        ]

    def probe(self, run: str, step: int) -> ProbeStatus:
        """A declared probe, with what is still to come as `dataset/contributor`; MissingError: not declared."""
        probe = self._declared(run, step)
        key = (run, step)
        ((declared,),) = self._database.rows("SELECT declared FROM probes WHERE run = ? AND step = ?", key)
        there = set(self._database.rows("SELECT dataset, contributor FROM pushes WHERE run = ? AND step = ?", key))
        missing = tuple(
            f"{dataset}/{contributor}"
            for dataset in probe.datasets
            for contributor in probe.contributors
            if (dataset, contributor) not in there
        )
        return ProbeStatus(probe=probe, missing=missing, declared=declared)

    def group(self, run: str, step: int, options: AffinityConfig) -> AffinityVersion:
        """As `Transport` says; one computation at a time, others wait.

        Raises:
            MissingError: not declared, or not complete: `got` lists what lacks.
            AffinityError: these sketches and options give no groups.
        """
        status = self.probe(run, step)
        if not status.is_complete:
            expected = len(status.probe.datasets) * len(status.probe.contributors)
            raise MissingError(
                f"{len(status.missing)} of {expected} sketches of this probe are still to come",
                where={"run": run, "step": step},
                got=list(status.missing),
                hint="wait for the jobs that were to push them, or push them from their outbox",
            )
        key = (run, step, options.model_dump_json())
        with self._grouping:
            version = self._versions.computed_from(key)
            if version is None:
                stats = self._load(status.probe)
                inputs = inputs_digest(stats, options.model_dump())
                version = self._versions.with_inputs(inputs) or compute_version(stats, options, inputs=inputs)
            self._versions.add(version, key)
        return version

    def _load(self, probe: ProbeRecord) -> GradientStats:
        """The statistics of a complete probe, over all contributors."""
        pushed = self._database.rows(
            "SELECT dataset, contributor, sha256 FROM pushes WHERE run = ? AND step = ?", (probe.run, probe.step)
        )
        digests = {(dataset, contributor): digest for dataset, contributor, digest in pushed}

        def load(dataset: str) -> list[GradientStats]:
            payloads = (self._blobs.read(digests[dataset, each]) for each in sorted(probe.contributors))
            return [
                load_contribution(payload, dataset=dataset, spec=probe.spec, groups=probe.groups)
                for payload in payloads
            ]

        return combine(_OnDemand(probe.datasets, load), source=probe.source, cost=probe.cost)

    def put_version(self, version: AffinityVersion) -> bool:
        return self._versions.add(version)

    def versions(self) -> list[VersionSummary]:
        return self._versions.summaries()

    def version(self, version_id: str) -> AffinityVersion:
        return self._versions.load(version_id)

    def append_events(self, run: str, lines: Sequence[EventLine]) -> int:
        """As `Transport` says. A line at or before the last stored position must be one that is stored."""
        self._require_run(run)
        positions = [line.position for line in lines]
        if any(after <= before for before, after in pairwise(positions)):
            raise PayloadError("events must come in rising order of their positions", where={"run": run})
        texts = [_event_text(run, line) for line in lines]
        with self._database.transaction() as connection:
            last = self._last_position(run)
            known = dict(
                connection.execute(
                    "SELECT position, event FROM events WHERE run = ? AND position BETWEEN ? AND ?",
                    (run, positions[0] if positions else 0, last),
                )
            )
            for position, text in zip(positions, texts, strict=True):
                if position <= last and known.get(position) != text:
                    raise ConflictError(
                        "the store has other events here",
                        where={"run": run, "position": position},
                        got=text[:200],
                        expected=known.get(position, f"positions after {last}")[:200],
                        hint="a run that starts afresh needs another name",
                    )
            new = [(run, at, text) for at, text in zip(positions, texts, strict=True) if at > last]
            connection.executemany("INSERT INTO events VALUES (?, ?, ?)", new)
        return max(last, *positions) if positions else last

    def events(self, run: str, after: int = 0, limit: int = 1000) -> list[EventLine]:
        """At most `limit` events of a run behind the position `after`, in order."""
        self._require_run(run)
        rows = self._database.rows(
            "SELECT position, event FROM events WHERE run = ? AND position > ? ORDER BY position LIMIT ?",
            (run, min(max(after, 0), MAX_STEP), min(max(limit, 0), MAX_STEP)),
        )
        return [EventLine(position=position, event=json.loads(event)) for position, event in rows]

    def _last_position(self, run: str) -> int:
        ((last,),) = self._database.rows("SELECT MAX(position) FROM events WHERE run = ?", (run,))
        return last or 0

    def _declared(self, run: str, step: int) -> ProbeRecord:
        key = (run, max(-1, min(step, MAX_STEP + 1)))  # SQLite has no larger integers
        probe = self._probes.get(key)
        if probe is None:
            self._require_run(run)
            rows = self._database.rows("SELECT record FROM probes WHERE run = ? AND step = ?", key)
            if not rows:
                where = {"run": run, "step": step}
                raise MissingError("the run has no such probe", where=where, hint="declare it first")
            probe = ProbeRecord.model_validate_json(rows[0][0])
            if len(self._probes) >= _CACHED_PROBES:
                self._probes.clear()
            self._probes[key] = probe
        return probe

    def _require_run(self, run: str) -> None:
        if not self._database.rows("SELECT 1 FROM runs WHERE name = ?", (run,)):
            known = [name for (name,) in self._database.rows("SELECT name FROM runs")]
            raise MissingError(
                "the store knows no such run", got=run, hint=did_you_mean(run, known, "declare it first")
            )

    def _pushed(self, key: SketchKey) -> str | None:
        """Digest of what is stored under `key`."""
        rows = self._database.rows(
            "SELECT sha256 FROM pushes WHERE run = ? AND step = ? AND dataset = ? AND contributor = ?",
            (key.run, key.step, key.dataset, key.contributor),
        )
        return rows[0][0] if rows else None


class _OnDemand(Mapping[str, Sequence[GradientStats]]):
    """Loads each dataset's statistics when asked: a probe of 1,000 datasets is not in memory twice."""

    def __init__(self, datasets: Sequence[str], load: Callable[[str], list[GradientStats]]) -> None:
        self._datasets, self._load = datasets, load

    def __getitem__(self, dataset: str) -> Sequence[GradientStats]:
        return self._load(dataset)

    def __iter__(self) -> Iterator[str]:
        return iter(self._datasets)

    def __len__(self) -> int:
        return len(self._datasets)


def _require_same_bytes(stored: str | None, digest: str, where: dict[str, object]) -> None:
    if stored not in (None, digest):
        raise ConflictError(
            "other sketches are stored under this key",
            where=where,
            got=digest,
            expected=stored,
            hint="what is stored never changes: push under another run or step",
        )


def _require_equal(
    stored: RunRecord | ProbeRecord, new: RunRecord | ProbeRecord, where: dict[str, object], hint: str
) -> None:
    differing = [name for name in type(stored).model_fields if getattr(stored, name) != getattr(new, name)]
    if differing:
        raise ConflictError(
            f"declared before, but otherwise: they differ in {', '.join(differing)}",
            where=where,
            got={name: _shortened(getattr(new, name)) for name in differing},
            expected={name: _shortened(getattr(stored, name)) for name in differing},
            hint=hint,
        )


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _event_text(run: str, line: EventLine) -> str:
    try:
        text = json.dumps(line.event, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PayloadError(
            "an event that JSON cannot hold", where={"run": run, "position": line.position}, got=str(error)
        ) from error
    if len(text) > MAX_EVENT_BYTES:
        raise PayloadError(
            "an event is too large",
            where={"run": run, "position": line.position},
            got=f"{len(text)} bytes",
            expected=f"{MAX_EVENT_BYTES} at most",
        )
    return text


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""The embedded transport: the experiment's own store, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pipeline.affinity.records import (
    EventLine,
    ProbeRecord,
    ProbeStatus,
    RunRecord,
    RunStatus,
    SketchKey,
    VersionSummary,
)
from pipeline.affinity.store.store import AffinityStore, open_store
from pipeline.affinity.versions import AffinityVersion
from pipeline.config.schema import AffinityConfig

WAIT_S = 10.0


class LocalTransport:
    """`Transport` on the store in `folder`. Each operation opens it, so that several jobs can take turns.

    Raises (any method): StoreBusyError when another writer does not let go within `WAIT_S`; where that is a service,
        `where["url"]` says how to reach it. Else as `Transport` says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _open(self) -> AbstractContextManager[AffinityStore]:
        return open_store(self.folder, wait_s=WAIT_S)

    def declare_run(self, run: RunRecord) -> bool:
        with self._open() as store:
            return store.declare_run(run)

    def declare_probe(self, probe: ProbeRecord) -> bool:
        with self._open() as store:
            return store.declare_probe(probe)

    def push(self, key: SketchKey, payload: bytes) -> bool:
        with self._open() as store:
            return store.push(key, payload)

    def runs(self) -> list[RunStatus]:
        with self._open() as store:
            return store.runs()

    def probe(self, run: str, step: int) -> ProbeStatus:
        with self._open() as store:
            return store.probe(run, step)

    def group(self, run: str, step: int, options: AffinityConfig) -> AffinityVersion:
        with self._open() as store:
            return store.group(run, step, options)

    def put_version(self, version: AffinityVersion) -> bool:
        with self._open() as store:
            return store.put_version(version)

    def versions(self) -> list[VersionSummary]:
        with self._open() as store:
            return store.versions()

    def version(self, version_id: str) -> AffinityVersion:
        with self._open() as store:
            return store.version(version_id)

    def append_events(self, run: str, lines: Sequence[EventLine]) -> int:
        with self._open() as store:
            return store.append_events(run, lines)

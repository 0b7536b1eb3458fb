"""How jobs and people reach an affinity store: in this process (`LocalTransport`) or over HTTP (`HttpTransport`).

Both behave alike, errors included; one contract test runs against both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.affinity.records import (
    EventLine,
    ProbeRecord,
    ProbeStatus,
    RunRecord,
    RunStatus,
    SketchKey,
    VersionSummary,
)
from pipeline.affinity.versions import AffinityVersion
from pipeline.config.schema import AffinityConfig


class Transport(Protocol):
    """Every write is idempotent: sent twice it counts once, and the same key with other content is refused.

    Raises (any method): PayloadError for what can never be accepted, ConflictError where something else is stored,
    MissingError for what is not there, StoreFullError, StoreBusyError, AccessError, UnreachableError.
    """

    def declare_run(self, run: RunRecord) -> bool:
        """Make a run known; False when it was."""
        ...

    def declare_probe(self, probe: ProbeRecord) -> bool:
        """Say which sketches will be pushed for a step of a declared run; False when that was said before."""
        ...

    def push(self, key: SketchKey, payload: bytes) -> bool:
        """Store one contributor's sketches of one dataset (`payload.dump_contribution`); False when it was there."""
        ...

    def runs(self) -> list[RunStatus]:
        """All runs, oldest first."""
        ...

    def probe(self, run: str, step: int) -> ProbeStatus: ...

    def group(self, run: str, step: int, options: AffinityConfig) -> AffinityVersion:
        """The version that a complete probe gives under `options`: computed once, found afterwards.

        Raises:
            MissingError: sketches are still to come; `got` lists them as `dataset/contributor`.
        """
        ...

    def put_version(self, version: AffinityVersion) -> bool:
        """Store a version that was computed elsewhere; False when it was there."""
        ...

    def versions(self) -> list[VersionSummary]:
        """All versions, oldest first."""
        ...

    def version(self, version_id: str) -> AffinityVersion: ...

    def append_events(self, run: str, lines: Sequence[EventLine]) -> int:
        """Add events of a declared run in rising order; those that are there already are passed over.

        Returns:
            The position of the run's last stored event.
        """
        ...

"""Which versions a store's folder holds, and from which probes they were computed. The files are the truth."""

from __future__ import annotations

import logging
import sqlite3
import threading
from functools import lru_cache
from pathlib import Path

from pipeline.affinity.records import VersionSummary
from pipeline.affinity.store.database import Database
from pipeline.affinity.store.failures import plain_errors
from pipeline.affinity.versions import VERSION_ID, AffinityVersion, load_version, save_version
from pipeline.atomic import is_stale_temporary
from pipeline.errors import AffinityError, MissingError, PayloadError, did_you_mean

_LOG = logging.getLogger("pipeline.affinity.store")


class VersionIndex:
    """The versions in `folder`, indexed in `database`. Threads may share it."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder = folder
        self._database = database
        self._saving = threading.Lock()  # temporary files are named after the process, not the thread

    def refresh(self) -> None:
        """Index what `gst group` or a copy put here, forget what was deleted, remove half-written files."""
        with plain_errors(self._folder):
            for path in self._folder.glob(".*.tmp"):
                if is_stale_temporary(path):
                    path.unlink(missing_ok=True)
            there = {path.stem for path in self._folder.glob("v-*.json") if VERSION_ID.fullmatch(path.stem)}
        indexed = {version_id for (version_id,) in self._database.rows("SELECT id FROM versions")}
        found = []
        for version_id in sorted(there - indexed):
            try:
                found.append(load_version(self._folder, version_id))
            except AffinityError as error:
                _warn_once(str(error))
        if found or indexed - there:
            with self._database.transaction() as connection:
                connection.executemany("DELETE FROM versions WHERE id = ?", [(gone,) for gone in indexed - there])
                for version in found:
                    _insert(connection, version)

    def add(self, version: AffinityVersion, probe: tuple[str, int, str] | None = None) -> bool:
        """Save and index a version and make it the latest; False when it was there.

        Args:
            probe: run, step and options that it was computed from.
        """
        with self._saving:
            with plain_errors(self._folder):
                save_version(self._folder, version)
            with self._database.transaction() as connection:
                is_new = _insert(connection, version)
                if probe is not None:
                    connection.execute("INSERT OR REPLACE INTO groupings VALUES (?, ?, ?, ?)", (*probe, version.id))
        return is_new

    def load(self, version_id: str) -> AffinityVersion:
        """The version with this id, checked.

        Raises:
            PayloadError: not the name of a version.
            MissingError: no such version.
        """
        if not VERSION_ID.fullmatch(version_id):
            raise PayloadError("not the name of an affinity version", got=version_id, expected="v-<12 hex digits>")
        if not (self._folder / f"{version_id}.json").is_file():
            known = [name for (name,) in self._database.rows("SELECT id FROM versions")]
            raise MissingError("no such affinity version", got=version_id, hint=did_you_mean(version_id, known))
        return load_version(self._folder, version_id)

    def computed_from(self, probe: tuple[str, int, str]) -> AffinityVersion | None:
        """The version that run, step and options gave before."""
        return self._first("SELECT version FROM groupings WHERE run = ? AND step = ? AND options = ?", probe)

    def with_inputs(self, inputs: str) -> AffinityVersion | None:
        """The version whose inputs had this digest."""
        return self._first("SELECT id FROM versions WHERE inputs = ? ORDER BY created, id", (inputs,))

    def _first(self, query: str, values: tuple[str | int, ...]) -> AffinityVersion | None:
        for (version_id,) in self._database.rows(query, values):
            if (self._folder / f"{version_id}.json").is_file():
                return load_version(self._folder, version_id)
        return None

    def summaries(self) -> list[VersionSummary]:
        """All versions, oldest first."""
        rows = self._database.rows(
            "SELECT id, created, method, datasets, groups, verdict, run, step FROM versions"
            " LEFT JOIN (SELECT version, run, MIN(step) AS step FROM groupings GROUP BY version) ON version = id"
            " ORDER BY created, id"
        )
        names = ("id", "created", "method", "datasets", "groups", "verdict", "run", "step")
        return [VersionSummary(**dict(zip(names, row, strict=True))) for row in rows]


@lru_cache(maxsize=1000)
def _warn_once(reason: str) -> None:
    """A job opens its store for every push; it need not hear of the same file each time."""
    _LOG.warning("a version is left out of the store: %s", reason)


def _insert(connection: sqlite3.Connection, version: AffinityVersion) -> bool:
    """Index a version; False when it was indexed."""
    values = (version.id, version.created, version.method, len(version.datasets), len(version.groups))
    done = connection.execute(
        "INSERT OR IGNORE INTO versions VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, version.verdict, version.inputs)
    )
    return done.rowcount == 1

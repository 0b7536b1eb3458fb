"""The store's SQLite file: its tables, its migrations, and transactions that survive a power cut.

Rollback journal, because the write-ahead log needs memory shared between processes, which network file systems do not
have; `synchronous=FULL`, so a commit that returned is on the disk.

One connection, guarded by one lock, serves all threads: SQLite lets one of them write at a time in any case, statements
here take well under a millisecond, and with a connection for each thread a reader could keep a writer from committing.
What takes long (checking and syncing payloads, computing versions) happens outside of transactions.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.affinity.store.failures import plain_errors
from pipeline.errors import AffinityError

# Statements that lead from each version of the schema to the next; PRAGMA user_version counts those that were applied.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE runs (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL,"
        " declared TEXT NOT NULL)",
        "CREATE TABLE probes (run TEXT NOT NULL REFERENCES runs (name), step INTEGER NOT NULL, record TEXT NOT NULL,"
        " declared TEXT NOT NULL, PRIMARY KEY (run, step))",
        "CREATE TABLE pushes (run TEXT NOT NULL, step INTEGER NOT NULL, dataset TEXT NOT NULL,"
        " contributor TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, pushed TEXT NOT NULL,"
        " PRIMARY KEY (run, step, dataset, contributor), FOREIGN KEY (run, step) REFERENCES probes (run, step))"
        " WITHOUT ROWID",
        "CREATE TABLE versions (id TEXT PRIMARY KEY, created TEXT NOT NULL, method TEXT NOT NULL,"
        " datasets INTEGER NOT NULL, groups INTEGER NOT NULL, verdict TEXT NOT NULL, inputs TEXT NOT NULL)"
        " WITHOUT ROWID",
        "CREATE INDEX versions_inputs ON versions (inputs)",
        "CREATE TABLE groupings (run TEXT NOT NULL, step INTEGER NOT NULL, options TEXT NOT NULL,"
        " version TEXT NOT NULL REFERENCES versions (id) ON DELETE CASCADE, PRIMARY KEY (run, step, options),"
        " FOREIGN KEY (run, step) REFERENCES probes (run, step)) WITHOUT ROWID",
        "CREATE INDEX groupings_version ON groupings (version)",
        "CREATE TABLE events (run TEXT NOT NULL REFERENCES runs (name), position INTEGER NOT NULL,"
        " event TEXT NOT NULL, PRIMARY KEY (run, position)) WITHOUT ROWID",
    ),
)
_BUSY_TIMEOUT_S = 5.0  # for programs that look into the file; other stores are kept away by the writer lock


class Database:
    """The tables in `path`, made or brought up to date when opened. Threads may share it.

    Raises (all methods): StoreFullError, StoreBusyError, AffinityError; after an error nothing has changed.
    """

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._lock = threading.RLock()
        with plain_errors(self._folder):
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT_S
            )
            try:
                for pragma in ("journal_mode = TRUNCATE", "synchronous = FULL", "foreign_keys = ON"):
                    self._connection.execute(f"PRAGMA {pragma}")
                self._migrate()
            except BaseException:
                self._connection.close()
                raise

    def _migrate(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise AffinityError(
                "a newer version of this program wrote the affinity store",
                where={"folder": self._folder},
                got=f"schema {version}",
                expected=f"schema {len(MIGRATIONS)} at most",
                hint="update this installation",
            )
        for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
            with self.transaction() as connection:
                for statement in statements:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: committed and synced when the block ends, taken back when it raises."""
        with self._lock, plain_errors(self._folder):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite takes some failed transactions back on its own
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows that a query gives."""
        with self._lock, plain_errors(self._folder):
            return self._connection.execute(query, values).fetchall()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

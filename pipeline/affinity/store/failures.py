"""What the operating system and SQLite say, as the store's plain errors."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import AffinityError, StoreBusyError, StoreFullError

_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A write beyond a quota or a file size limit is an I/O error to SQLite; only a full disk has a code of its own.
_FULL_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DAMAGED_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@contextmanager
def plain_errors(folder: Path) -> Iterator[None]:
    """Turns errors of disk and database below `folder` into typed ones.

    Raises:
        StoreFullError: no space, a quota, or a limit on file sizes.
        StoreBusyError: another program holds a lock on the database file.
        AffinityError: a damaged database, or a folder that cannot be read or written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_ERRNOS:
            raise _full(folder, error) from error
        raise AffinityError(
            "the affinity store cannot be read or written", where={"folder": folder}, got=str(error)
        ) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        primary = code & 0xFF  # the rest of an extended code says more about the same
        if code in _FULL_CODES or primary in _FULL_CODES:
            raise _full(folder, error) from error
        if primary in _BUSY_CODES:
            raise StoreBusyError(
                "another program uses the store's database",
                where={"folder": folder},
                got=str(error),
                hint="close other programs that have store.db open",
            ) from error
        if primary in _DAMAGED_CODES:
            raise AffinityError(
                "the store's database is damaged",
                where={"folder": folder},
                got=str(error),
                hint="put a backup of store.db back, or move it away: versions lie beside it and are found again",
            ) from error
        raise AffinityError("the store's database failed", where={"folder": folder}, got=str(error)) from error


def _full(folder: Path, error: Exception) -> StoreFullError:
    return StoreFullError(
        "the disk of the affinity store is full",
        where={"folder": folder},
        got=str(error),
        hint="make room and send it again: what was stored before is intact",
    )

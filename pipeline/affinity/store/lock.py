"""One writer per store: an advisory lock that the system frees when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.affinity.store.failures import plain_errors
from pipeline.errors import StoreBusyError
from pipeline.locks import try_lock

LOCK = "writer.lock"
_POLL_S = 0.02


@contextmanager
def writer_lock(folder: Path, *, wait_s: float, url: str | None = None) -> Iterator[None]:
    """Hold the store in `folder` for writing; also two threads of one process exclude each other.

    Args:
        wait_s: how long to wait for another writer.
        url: where this writer can be reached, when it is a service; others are told.

    Raises:
        StoreBusyError: another writer still holds it; `where` says what is known of it: pid, host, url.
    """
    path = folder / LOCK
    with plain_errors(folder):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with plain_errors(folder):
            _acquire(handle, folder, wait_s)
        try:
            _write_holder(handle, {"pid": os.getpid(), "host": socket.gethostname(), "url": url})
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(handle, 0)
            # Closing would not do: a process forked meanwhile (a loader's worker) has the same open file.
            fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)


def lock_holder(folder: Path) -> dict[str, Any]:
    """What the present writer says of itself (pid, host, url); empty when it says nothing or nobody writes.

    A writer that was killed may still be named here.
    """
    try:
        holder = json.loads((folder / LOCK).read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in holder.items() if value is not None} if isinstance(holder, dict) else {}


def _acquire(handle: int, folder: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while not try_lock(handle):
        if time.monotonic() >= deadline:
            raise _busy(folder)
        time.sleep(_POLL_S)


def _busy(folder: Path) -> StoreBusyError:
    holder = lock_holder(folder)
    url = holder.get("url")
    return StoreBusyError(
        "another process writes to this affinity store",
        where={"folder": folder, **holder},
        hint=f"talk to the service: service.url={url}" if url else "wait until it is done, and try again",
    )


def _write_holder(handle: int, holder: dict[str, Any]) -> None:
    """A note to others. That a full disk does not take it is no reason not to read the store."""
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode(), 0)

"""Locks between processes: the kernel takes them back when their holder ends, however it ends."""

from __future__ import annotations

import fcntl
from typing import IO, Any


def try_lock(file: int | IO[Any]) -> bool:
    """Take the exclusive `flock` of an open file, or of its descriptor, without waiting; False when another holds it.

    It ends when the file is closed in every process that has it open.

    Raises:
        OSError: this file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

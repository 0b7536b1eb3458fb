"""Writing files and folders so that a reader sees the old one or the whole new one, also after a power cut."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r"\..+\.(?P<pid>\d+)\.(?P<host>[^/]+)\.tmp")
_TEMPORARY_LIFE_S = 24 * 3600.0


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path`: temporary file beside it, fsync, rename, fsync of the folder."""
    with open_atomic(path) as file:
        file.write(content)


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write piece by piece; it takes the name `path` only when the block ends without an error.

    A file that has this content already is left alone, with its time: whoever copies changed files has nothing to do.
    """
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        take_name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Where to write what shall become `path`: hidden, beside it, and named after this process and host.

    `is_stale_temporary` tells from the name whether anybody still writes there.
    """
    return path.with_name(f".{path.name}.{os.getpid()}.{socket.gethostname()}.tmp")


def take_name(temporary: Path, path: Path) -> None:
    """Give a file that is whole and synced its final name, unless the content is there already."""
    if path.is_file() and filecmp.cmp(temporary, path, shallow=False):
        temporary.unlink()
        return
    temporary.replace(path)
    sync_folder(path.parent)


@contextmanager
def folder_atomic(path: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the name `path`, in place of what has it, only when the block ends without error.

    Its files are on the disk before it does. Drafts of writers that are dead are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in path.parent.glob(f".{path.name}.*.tmp"):
        if is_stale_temporary(other):
            shutil.rmtree(other, ignore_errors=True)
    draft = temporary_path(path)
    draft.mkdir()
    try:
        yield draft
        sync_tree(draft)
        aside = temporary_path(path.with_name(f"{path.name}.old"))
        if path.exists():
            path.replace(aside)
        draft.replace(path)
        sync_folder(path.parent)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Make all files below `folder` durable, and their names in it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_stale_temporary(path: Path) -> bool:
    """True for a temporary file whose writer is dead: gone from this host, or silent for a day on another one."""
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    pid = int(match["pid"])
    if match["host"] == socket.gethostname() and (pid == os.getpid() or not _is_alive(pid)):
        return True
    try:
        return time.time() - path.stat().st_mtime > _TEMPORARY_LIFE_S
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    """Whether a process runs on this host. A zombie does not: nobody reaps orphans in a container without init."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state not in ("Z", "X")

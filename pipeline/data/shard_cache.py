"""Copies of remote shards on a local disk, shared by all processes of a machine and by all experiments.

    <folder>/shards/<sha256>.tar     a shard, by its content: whoever needs the same one, from whatever place, finds it
    <folder>/shards/<sha256>.json    its side file
    <folder>/locks/<sha256>          who holds its `flock` fetches that shard; empty, and left there
    <folder>/locks/room              who holds this one makes room

A file has its name only when it is whole and its digest was right. A reader holds a shared `flock` on the shard itself.
Locks end with their process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.atomic import open_atomic
from pipeline.config.schema import CacheConfig
from pipeline.data.manifest import ShardEntry, ShardSide, read_model, write_model
from pipeline.data.storage import require_side
from pipeline.errors import ConfigError, ShardError
from pipeline.locks import try_lock

_GIGABYTE = 1e9
_POLL_S = 0.05
_DIGEST = re.compile(r"[0-9a-f]{64}")


def default_folder() -> Path:
    """`audio-gst` in the user's cache folder (XDG base directory specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "audio-gst"


class ShardCache:
    """The cache folder; safe in many threads and processes.

    Args:
        options: its folder and limit. Nobody waits for another process that has written nothing for longer than
            `give_up_s` may take.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, options: CacheConfig) -> None:
        self.folder = Path(options.folder).expanduser() if options.folder else default_folder()
        self._max_bytes = None if options.max_gb is None else round(options.max_gb * _GIGABYTE)
        self._patience_s = options.give_up_s + options.timeout_s
        self._shards, self._locks = self.folder / "shards", self.folder / "locks"
        try:
            self._shards.mkdir(parents=True, exist_ok=True)
            self._locks.mkdir(exist_ok=True)
            self._drop_leftovers()
        except OSError as error:
            raise ConfigError(
                "the folder for copies of shards cannot be used",
                where={"key": "data.cache.folder", "folder": self.folder},
                got=error.strerror,
                hint="name a folder on a local disk: data.cache.folder=DIR",
            ) from None

    def holds(self, entry: ShardEntry) -> bool:
        """Whether the whole shard is here now."""
        try:
            return self._path(entry).stat().st_size == entry.n_bytes
        except FileNotFoundError:
            return False

    @contextmanager
    def open(self, entry: ShardEntry, download: Callable[[BinaryIO], None]) -> Iterator[int]:
        """A file descriptor of the shard, which nobody removes meanwhile.

        Args:
            download: writes the shard; called when it is not here, by one process and thread at a time. It checks what
                it writes.

        Raises:
            ShardError: what `download` raises; a shard beyond the limit of the cache; a full disk.
        """
        path = self._path(entry)
        while True:
            try:
                handle = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                self._fetch(entry, download)
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_SH)  # waits only while another process removes it: a moment
                if os.fstat(handle).st_size == entry.n_bytes:
                    now = time.time_ns()  # the kernel's own time of files is too coarse to order two reads
                    with suppress(PermissionError):  # another user's file
                        os.utime(handle, ns=(now, now))
                    yield handle
                    return
            finally:
                os.close(handle)
            path.unlink(missing_ok=True)  # somebody cut it

    def side(self, place: Path | str, entry: ShardEntry, fetch: Callable[[], ShardSide]) -> ShardSide:
        """The shard's side file, by `fetch` when it is not here."""
        path = self._path(entry).with_suffix(".json")
        kept = self._kept_side(path, place, entry)
        if kept is None:
            with self._lock(entry.sha256):
                kept = self._kept_side(path, place, entry)  # another process may have been faster
                if kept is None:
                    kept = fetch()
                    with self._writing():
                        write_model(path, kept)
        return kept

    def _kept_side(self, path: Path, place: Path | str, entry: ShardEntry) -> ShardSide | None:
        try:
            side = read_model(path, ShardSide)
            require_side(place, entry, side)
        except ShardError:
            return None
        return side

    def _path(self, entry: ShardEntry) -> Path:
        if not _DIGEST.fullmatch(entry.sha256):  # it comes from a manifest, and shall not name any other file here
            raise ShardError("a manifest lists a shard without a sha256", where={"shard": entry.file}, got=entry.sha256)
        return self._shards / f"{entry.sha256}.tar"

    def _fetch(self, entry: ShardEntry, download: Callable[[BinaryIO], None]) -> None:
        """Download the shard unless another process or thread is faster."""
        path = self._path(entry)
        with self._lock(entry.sha256):
            if path.exists():
                return
            for left in self._temporaries(entry.sha256):
                left.unlink(missing_ok=True)
            with self._writing(), open_atomic(path) as file:
                with self._lock("room"):
                    self._make_room(entry)
                    file.truncate(entry.n_bytes)  # so that others, who make room, count it
                download(file)

    def _make_room(self, entry: ShardEntry) -> None:
        """Remove shards, least recently read first, until this one fits. Those being read or fetched stay."""
        if self._max_bytes is None:
            return
        if entry.n_bytes > self._max_bytes:
            raise ShardError(
                "a shard is larger than the cache may become",
                where={"shard": entry.file, "key": "data.cache.max_gb"},
                got=f"{entry.n_bytes / _GIGABYTE:.3g} GB",
                expected=f"at most {self._max_bytes / _GIGABYTE:.3g} GB",
                hint="raise data.cache.max_gb, or read clip by clip: data.cache.mode=ranges",
            )
        self._drop_leftovers()
        files = []
        for path in [*self._shards.glob("*.tar"), *self._temporaries("*")]:
            with suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in files) + entry.n_bytes - self._max_bytes
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            if path.suffix == ".tar" and _remove_unused(path):
                excess -= size

    def _temporaries(self, sha256: str) -> Iterator[Path]:
        """What `open_atomic` writes to while a shard is fetched."""
        return self._shards.glob(f".{sha256}.*.tmp")

    def _drop_leftovers(self) -> None:
        """Remove what killed processes left: a file that is being fetched has somebody who holds its lock."""
        for left in self._temporaries("*"):
            handle = os.open(self._locks / left.name.split(".")[1], os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if try_lock(handle):
                    left.unlink(missing_ok=True)
            finally:
                os.close(handle)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """While nobody else is in here with the same name; raises what `_wait_for` does."""
        handle = os.open(self._locks / name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._wait_for(handle, name)
            yield
        finally:
            os.close(handle)

    def _wait_for(self, handle: int, name: str) -> None:
        """Take the lock; ShardError when its holder has fetched nothing for too long."""
        progress_s, written_ns = time.monotonic(), 0
        while not try_lock(handle):
            now_ns = self._last_write_ns(name)
            if now_ns != written_ns:
                progress_s, written_ns = time.monotonic(), now_ns
            if time.monotonic() - progress_s > self._patience_s:
                raise ShardError(
                    "another process fetches this shard and does not get on",
                    where={"lock": self._locks / name},
                    got=f"nothing written for {self._patience_s:g} s",
                    hint="end the processes that stand still (`fuser` shows them), then start again",
                )
            time.sleep(_POLL_S)

    def _last_write_ns(self, name: str) -> int:
        """When something was last written of the shard that is being fetched; 0 when nothing is there."""
        newest = 0
        for path in self._temporaries(name):
            with suppress(FileNotFoundError):
                newest = max(newest, path.stat().st_mtime_ns)
        return newest

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Names the folder when it cannot be written."""
        try:
            yield
        except OSError as error:
            raise ShardError(
                "a copy of a shard cannot be written",
                where={"folder": self.folder},
                got=error.strerror,
                hint="make room on that disk, set data.cache.max_gb, or name another data.cache.folder",
            ) from None


def _remove_unused(path: Path) -> bool:
    """Remove a shard unless somebody reads it; whether it is gone."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        if not try_lock(handle):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(handle)

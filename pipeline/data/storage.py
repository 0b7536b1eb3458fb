"""What prepared shards are read from: any store, and a local folder by `pread`; others are in `data.remote`."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from pipeline.data.manifest import DatasetManifest, ShardEntry, ShardSide, find_manifests, read_model
from pipeline.errors import ShardError

# Files stay open up to this number; clips of further shards cost an open and a close each. Well below the usual
# limit of 1,024 per process, and far more than a few hundred gigabytes of shards need.
_MAX_OPEN_SHARDS = 512

Span = tuple[int, int]  # offset and size in bytes
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class ShardStore(ABC):
    """A place with one folder per dataset (see `pipeline.data.manifest`); read only, from any number of threads.

    Shards are told to the store by `add` and then known by their number.

    Attributes:
        root: where it is, for messages: without passwords.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = root
        self._shards: list[tuple[str, ShardEntry, Path | str]] = []  # dataset, entry, place

    @abstractmethod
    def manifests(self, names: Sequence[str] | None = None) -> dict[str, DatasetManifest]:
        """Complete datasets, by name in name order. There may be more than `names`, and all of these that exist.

        Raises:
            ShardError: no such place, no complete dataset there, or a manifest that is damaged or in another's folder.
        """

    def add(self, dataset: str, entries: Sequence[ShardEntry]) -> tuple[int, list[ShardSide]]:
        """The number of the first of these shards, the others follow, and their side files.

        Raises:
            ShardError: a shard is missing or not of the recorded size, or its side file contradicts the manifest.
        """
        sides = self.map(lambda entry: self._side(dataset, entry), entries)
        first = len(self._shards)
        self._shards += [(dataset, entry, self._place(dataset, entry.file)) for entry in entries]
        return first, sides

    def place(self, shard: int) -> Path | str:
        """Where a shard lies, for messages."""
        return self._shards[shard][2]

    @abstractmethod
    def read(self, shard: int, spans: Sequence[Span]) -> list[bytes]:
        """These bytes of a shard, for each span all of them.

        Raises:
            ShardError: the shard is gone, was cut or changed, or cannot be reached.
        """

    def map(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """`function` of every item, as many at a time as suits this store."""
        return [function(item) for item in items]

    def has_folder(self, dataset: str) -> bool:
        """Whether there is a folder for the dataset, finished or not, as far as is known here."""
        return False

    def close(self) -> None:  # noqa: B027  (most have nothing to close)
        """Let go of open files; a later `read` opens them again."""

    @abstractmethod
    def _side(self, dataset: str, entry: ShardEntry) -> ShardSide:
        """The shard's side file, after the checks of `add`."""

    @abstractmethod
    def _place(self, dataset: str, file: str) -> Path | str: ...


class LocalStore(ShardStore):
    """A folder on this machine or mounted here."""

    root: Path

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._handles: dict[int, int] = {}
        self._lock = threading.Lock()

    def manifests(self, names: Sequence[str] | None = None) -> dict[str, DatasetManifest]:
        return find_manifests(self.root)

    def has_folder(self, dataset: str) -> bool:
        return (self.root / dataset).is_dir()

    def read(self, shard: int, spans: Sequence[Span]) -> list[bytes]:
        """By `pread`, which needs no lock among threads; raises as of any store."""
        try:
            handle, keep = self._handle(shard)
            try:
                contents = [os.pread(handle, size, offset) for offset, size in spans]
            finally:
                if not keep:
                    os.close(handle)
        except OSError as error:
            raise ShardError(
                "a shard cannot be read any more",
                where={"shard": self.place(shard)},
                got=error.strerror,
                hint="it was there when the run began; check the disk, then resume from the last checkpoint",
            ) from None
        for content, (offset, size) in zip(contents, spans, strict=True):
            if len(content) != size:
                raise ShardError(
                    "a shard became shorter while it was in use",
                    where={"shard": self.place(shard), "offset": offset},
                    got=f"{len(content)} bytes",
                    expected=f"{size} bytes",
                    hint="run `gst-data prepare` again, then resume from the last checkpoint",
                )
        return contents

    def close(self) -> None:
        with self._lock:
            for handle in self._handles.values():
                os.close(handle)
            self._handles.clear()

    def _handle(self, shard: int) -> tuple[int, bool]:
        """An open file of the shard, and whether it stays open."""
        with self._lock:
            if shard not in self._handles:
                handle = os.open(self.place(shard), os.O_RDONLY)
                if len(self._handles) >= _MAX_OPEN_SHARDS:
                    return handle, False
                self._handles[shard] = handle
            return self._handles[shard], True

    def _side(self, dataset: str, entry: ShardEntry) -> ShardSide:
        tar = self._place(dataset, entry.file)
        if not tar.is_file():
            raise missing_shard(tar, entry)
        require_size(tar, entry, tar.stat().st_size)
        side = read_model(tar.with_suffix(".json"), ShardSide)
        require_side(tar, entry, side)
        return side

    def _place(self, dataset: str, file: str) -> Path:
        return self.root / dataset / file


_PREPARE = "run `gst-data prepare` again; it rewrites this shard only"


def missing_shard(place: Path | str, entry: ShardEntry) -> ShardError:
    """What to raise where a shard of the manifest is not there."""
    return ShardError("a shard is missing", where={"shard": place}, expected=f"{entry.n_bytes} bytes", hint=_PREPARE)


def require_size(place: Path | str, entry: ShardEntry, n_bytes: int) -> None:
    """ShardError unless a shard has its recorded size: a tar cut at a member boundary reads without any error."""
    if n_bytes != entry.n_bytes:
        raise ShardError(
            "a shard does not have its recorded size",
            where={"shard": place},
            got=f"{n_bytes} bytes",
            expected=f"{entry.n_bytes} bytes",
            hint=_PREPARE,
        )


def require_side(place: Path | str, entry: ShardEntry, side: ShardSide) -> None:
    """ShardError unless the side file is that of this shard."""
    recorded = (entry.n_samples, entry.n_samples, entry.n_bytes, entry.sha256)
    found = (len(side.samples), side.n_samples, side.n_bytes, side.sha256)
    if found != recorded:
        raise ShardError(
            "a shard's side file contradicts the manifest",
            where={"shard": place},
            got=f"{found[0]} samples, {found[2]} bytes, sha256 {found[3]}",
            expected=f"{recorded[0]} samples, {recorded[2]} bytes, sha256 {recorded[3]}",
            hint="run `gst-data prepare` again",
        )

"""Prepared shards in an object store or on a web server, by fsspec: copied shard by shard, or read clip by clip.

What is read is held against the manifest: the size of every shard when it is told to the store, its sha256 when it is
copied, its side file, the length of every answer. Only the manifests are read anew by every process.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, TypeVar

from pipeline.config.schema import CacheConfig
from pipeline.data.fetch import Fetcher
from pipeline.data.manifest import (
    MANIFEST_NAME,
    DatasetManifest,
    ShardEntry,
    ShardSide,
    checked_manifests,
    missing_file,
    parse_model,
)
from pipeline.data.shard_cache import ShardCache
from pipeline.data.storage import ShardStore, Span, missing_shard, require_side, require_size
from pipeline.errors import ShardError

_BLOCK_BYTES = 8 * 2**20  # of one request while a shard is copied: a broken connection costs no more
_COPIES = 2  # of a shard whose digest is wrong: the first may have been damaged on its way
_REQUESTS = 16  # at a time
_QUEUE = 4096  # of items that wait for their turn

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class RemoteStore(ShardStore):
    """Shards below a URL.

    Raises:
        ConfigError: see `Fetcher` and `ShardCache`.
        ShardError: the store cannot be reached.
    """

    root: str

    def __init__(self, url: str, options: CacheConfig) -> None:
        self._files = Fetcher(url, options)
        super().__init__(self._files.shown.rstrip("/"))
        self._cache = ShardCache(options)
        self._copies = options.mode == "shards"

    def manifests(self, names: Sequence[str] | None = None) -> dict[str, DatasetManifest]:
        """As of any store; where all of `names` are there, nothing is listed (many web servers cannot)."""
        found = self._read_manifests(self._folders() if names is None else sorted(set(names)))
        if names is not None and not set(names) <= set(found):
            try:
                found |= self._read_manifests(self._folders())  # what there is, for the message about a wrong name
            except ShardError:
                if not found:
                    raise
        return checked_manifests(dict(sorted(found.items())), self.root)

    def read(self, shard: int, spans: Sequence[Span]) -> list[bytes]:
        """From the copy of the shard, which is made first where there is none; or, without copies, in one request."""
        dataset, entry, _ = self._shards[shard]
        if not self._copies:
            first, last = min(offset for offset, _ in spans), max(offset + size for offset, size in spans)
            content = self._fetch_range(dataset, entry, first, last - first)
            return [content[offset - first : offset - first + size] for offset, size in spans]
        with self._cache.open(entry, lambda file: self._copy(dataset, entry, file)) as handle:
            return [os.pread(handle, size, offset) for offset, size in spans]

    def map(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """In the order of `items`, many at a time: a request mostly waits. Raises what `function` does, at once."""
        pool = ThreadPoolExecutor(_REQUESTS, thread_name_prefix="gst-store")
        everything = list(items)
        results: list[_Result] = []
        try:
            for start in range(0, len(everything), _QUEUE):
                results += pool.map(function, everything[start : start + _QUEUE])
            return results
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error nobody waits for the others

    def _folders(self) -> list[str]:
        try:
            return self._files.folders()
        except FileNotFoundError:
            raise ShardError(
                "no such shard folder",
                where={"url": self.root},
                hint="check the URL; if its server lists no folders, name the datasets: data.datasets=[NAME, ...]",
            ) from None

    def _read_manifests(self, names: Sequence[str]) -> dict[str, DatasetManifest]:
        """Those of these datasets that are complete."""
        read = self.map(self._manifest, names)
        return {name: manifest for name, manifest in zip(names, read, strict=True) if manifest is not None}

    def _manifest(self, dataset: str) -> DatasetManifest | None:
        name = f"{dataset}/{MANIFEST_NAME}"
        try:
            content = self._files.document(name)
        except FileNotFoundError:
            return None
        return parse_model(content, DatasetManifest, self._files.place(name))

    def _side(self, dataset: str, entry: ShardEntry) -> ShardSide:
        place = self._place(dataset, entry.file)
        side = self._cache.side(place, entry, lambda: self._fetch_side(dataset, entry))
        if not (self._copies and self._cache.holds(entry)):
            try:
                n_bytes = self._files.size(f"{dataset}/{entry.file}")
            except FileNotFoundError:
                raise missing_shard(place, entry) from None
            if n_bytes is not None:
                require_size(place, entry, n_bytes)
        return side

    def _fetch_side(self, dataset: str, entry: ShardEntry) -> ShardSide:
        name = f"{dataset}/{entry.file.removesuffix('.tar')}.json"
        try:
            content = self._files.document(name)
        except FileNotFoundError:
            raise missing_file(self._files.place(name)) from None
        side = parse_model(content, ShardSide, self._files.place(name))
        require_side(self._place(dataset, entry.file), entry, side)
        return side

    def _fetch_range(self, dataset: str, entry: ShardEntry, offset: int, size: int, *, or_more: bool = False) -> bytes:
        try:
            return self._files.range(f"{dataset}/{entry.file}", offset, size, or_more=or_more)
        except FileNotFoundError:
            raise missing_shard(self._place(dataset, entry.file), entry) from None

    def _copy(self, dataset: str, entry: ShardEntry, file: BinaryIO) -> None:
        """Write the whole shard; ShardError when its sha256 is not that of the manifest."""
        for _ in range(_COPIES):
            digest = hashlib.sha256()
            file.seek(0)
            while (offset := file.tell()) < entry.n_bytes:
                left = entry.n_bytes - offset
                content = self._fetch_range(dataset, entry, offset, min(_BLOCK_BYTES, left), or_more=True)[:left]
                file.write(content)
                digest.update(content)
            if digest.hexdigest() == entry.sha256:
                return
        raise ShardError(
            "a shard in the store is not the one that the manifest lists",
            where={"shard": self._place(dataset, entry.file)},
            got=f"sha256 {digest.hexdigest()}",
            expected=f"sha256 {entry.sha256}",
            hint="copy the dataset's whole folder to the store again, the manifest last",
        )

    def _place(self, dataset: str, file: str) -> str:
        return self._files.place(f"{dataset}/{file}")

"""What a model's front makes of every clip, computed once: beside each other on disk, shard by shard.

    <folder>/<kind>-<16 hex>/<dataset>/<shard>-<16 hex>.f32     float32 values of the shard's clips, end to end
    <folder>/<kind>-<16 hex>/<dataset>/<shard>-<16 hex>.json    side file, written last: where each clip's values lie

The first digest is of how the values are made, the second is the shard's sha256; so other parameters, another encoder
or another shard are other files, and nothing old is found under a new name. Values are float32: float16 would halve the
files and change log-mel frames by up to 5e-4, a thousand times what two correct implementations differ.

Values are read with `pread`, not mapped: a mapped file that is cut ends the process, a short read is only a miss.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.atomic import is_stale_temporary, open_atomic
from pipeline.data.manifest import DatasetManifest, write_model
from pipeline.errors import ShardError
from pipeline.types import ClipFeatures

FORMAT = 1
_ENTRY = np.dtype(
    [(name, np.int64) for name in ("clip", "n_samples", "sample_rate_hz", "offset", "channels", "frames", "crc32")]
)

Audio = NDArray[np.float32] | ClipFeatures


class AudioSource(Protocol):
    """What an index asks for a clip's audio before it decodes it."""

    def get(self, tar: Path, clip: int, decode: Callable[[], tuple[Audio, int]]) -> tuple[Audio, int]:
        """Audio, or features in its place, and the sample rate of the clip whose audio is at byte `clip` of `tar`."""
        ...


@dataclass(frozen=True)
class FeatureKey:
    """Which values: their kind, and everything that they depend on besides the clip, as plain JSON."""

    kind: str
    made_from: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        content = {"format": FORMAT, "kind": self.kind, "made_from": self.made_from}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class _Side(BaseModel):
    """Side file of one shard's values; `clips` has the fields of `_ENTRY` in their order, by ascending `clip`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    made_from: dict[str, Any]
    digest: str
    shard: str
    shard_sha256: str
    n_bytes: int
    clips: list[tuple[int, int, int, int, int, int, int]]


@dataclass(frozen=True)
class CachedShard:
    """The values of one shard's clips, on disk or still to be computed."""

    key: FeatureKey
    folder: Path
    dataset: str
    tar: str
    sha256: str

    @property
    def values(self) -> Path:
        stem = f"{Path(self.tar).stem}-{self.sha256[:16]}.f32"
        return self.folder / f"{self.key.kind}-{self.key.digest[:16]}" / self.dataset / stem

    @property
    def side(self) -> Path:
        return self.values.with_suffix(".json")

    def entries(self) -> NDArray[np.void] | None:
        """[clips] of `_ENTRY`, ascending; None unless the values are there, whole, and these ones."""
        try:
            side = _Side.model_validate_json(self.side.read_bytes())
            n_bytes = self.values.stat().st_size
        except (OSError, ValidationError):
            return None
        if (side.digest, side.shard_sha256, side.n_bytes) != (self.key.digest, self.sha256, n_bytes):
            return None
        return np.array(side.clips, dtype=_ENTRY)

    def write(self, clips: Iterable[tuple[int, int, ClipFeatures]]) -> int:
        """Write (audio's offset in the tar, sample rate in Hz, values) of the shard's clips; returns their number.

        They are taken one at a time; a shard's values need not fit into memory.
        """
        self.values.parent.mkdir(parents=True, exist_ok=True)
        for left in filter(is_stale_temporary, self.values.parent.glob(".*.tmp")):
            left.unlink(missing_ok=True)
        rows: list[tuple[int, int, int, int, int, int, int]] = []
        n_bytes = 0
        with open_atomic(self.values) as file:
            for clip, sample_rate_hz, features in clips:
                content = np.ascontiguousarray(features.values, dtype="<f4").tobytes()
                channels, frames = features.values.shape
                rows.append((clip, features.n_samples, sample_rate_hz, n_bytes, channels, frames, zlib.crc32(content)))
                n_bytes += file.write(content)
        side = _Side(
            kind=self.key.kind,
            made_from=self.key.made_from,
            digest=self.key.digest,
            shard=self.tar,
            shard_sha256=self.sha256,
            n_bytes=n_bytes,
            clips=sorted(rows),
        )
        write_model(self.side, side)
        return len(rows)


def cached_shards(key: FeatureKey, folder: Path, manifests: Mapping[str, DatasetManifest]) -> Iterator[CachedShard]:
    """One for every shard of every split of these datasets."""
    for name, manifest in manifests.items():
        for split in manifest.splits.values():
            for entry in split.shards:
                yield CachedShard(key, folder, name, entry.file, entry.sha256)


class FeatureCache:
    """Reads cached values by clip; safe in many threads.

    Args:
        shards: of `cached_shards`: those that a run reads.
        complete: every clip must be there; else a clip without valid values is decoded, as without a cache.

    Raises:
        ShardError: `complete`, and shards without values.
    """

    def __init__(self, shards: Sequence[CachedShard], *, complete: bool = False) -> None:
        self._shards = {(shard.dataset, shard.tar): (shard, shard.entries()) for shard in shards}
        self._complete = complete
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        lacking = [f"{shard.dataset}/{shard.tar}" for shard, entries in self._shards.values() if entries is None]
        self.shards_lacking = len(lacking)
        if complete and lacking:
            raise ShardError(
                "the cache of features lacks shards",
                where={"folder": shards[0].values.parent.parent},
                got=f"nothing for {len(lacking)} of {len(self._shards)}, such as {lacking[0]}",
                hint="run `gst features` with the same recipe; it computes what lacks",
            )

    def counts(self) -> dict[str, int]:
        """Clips read so far: `cached`; `missing` and `damaged`, which were decoded; shards that lack values."""
        with self._lock:
            read = {name: self._counts[name] for name in ("cached", "missing", "damaged")}
        return {**read, "shards_lacking": self.shards_lacking}

    def get(self, tar: Path, clip: int, decode: Callable[[], tuple[Audio, int]]) -> tuple[Audio, int]:
        """What the cache holds of a clip, and its sample rate in Hz; else what `decode` gives.

        Raises:
            AudioError: as `decode` does, for a clip that could not be read when the cache was made either.
            ShardError: the cache must be complete and is not.
        """
        shard, entries = self._shards.get((tar.parent.name, tar.name), (None, None))
        state = "missing"
        if shard is not None and entries is not None:
            place = int(np.searchsorted(entries["clip"], clip))
            if place < len(entries) and entries["clip"][place] == clip:
                found = _read(shard, entries[place])
                if found is not None:
                    self._count("cached")
                    return found, int(entries[place]["sample_rate_hz"])
                state = "damaged"
        self._count(state)
        decoded = decode()
        if self._complete:
            raise ShardError(
                f"a clip's values in the cache of features are {state}",
                where={"shard": tar, "cache": shard.values if shard else "(none)"},
                hint="delete this file of the cache and run `gst features` again",
            )
        return decoded

    def _count(self, state: str) -> None:
        with self._lock:
            self._counts[state] += 1


def _read(shard: CachedShard, entry: np.void) -> ClipFeatures | None:
    """A clip's values; None where the file does not hold them any more."""
    channels, frames = int(entry["channels"]), int(entry["frames"])
    try:
        handle = os.open(shard.values, os.O_RDONLY)
        try:
            content = os.pread(handle, 4 * channels * frames, int(entry["offset"]))
        finally:
            os.close(handle)
    except OSError:
        return None
    if zlib.crc32(content) != int(entry["crc32"]):
        return None
    values = np.frombuffer(content, dtype="<f4").reshape(channels, frames)
    return ClipFeatures(shard.key.kind, values, int(entry["n_samples"]))

"""Making the clusters that `ads` and `tpc_ads` draw from: every training clip embedded once, then k-means.

Both are files that never change once they are there, named after what they were made from, so that all arms and seeds
of an experiment share them:

    <out>/clusters/embeddings-<16 hex>/part-<5 digits>.safetensors    256 clips each; what is there is not made again
    <out>/clusters/clusters-<16 hex>.safetensors
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pipeline.atomic import write_atomic
from pipeline.config import Recipe
from pipeline.data.batches import OnBad, try_read
from pipeline.data.clusters import NOWHERE, Clusters, kmeans_labels, load_clusters, save_clusters
from pipeline.data.index import ShardIndex
from pipeline.dist import Comm
from pipeline.errors import ShardError
from pipeline.models.embed import ClipEmbedder
from pipeline.models.exported import base_digest
from pipeline.types import Example

FORMAT = 1  # of embeddings: another number, other files
PART_CLIPS = 256
BATCH_CLIPS = 16  # part of what an embedding is: other batches may round otherwise

Embed = Callable[[list[Example]], NDArray[np.float32]]


def ensure_clusters(recipe: Recipe, index: ShardIndex, comm: Comm, on_bad: OnBad | None = None) -> Clusters:
    """The clusters that `recipe.schedule.ads` asks for; made by all ranks together when they are not there.

    Call it on every rank, before the run's own model takes the memory. Ranks must share the folder, as for
    checkpoints. A clip that cannot be read is told to `on_bad` by the rank that met it, and is in no cluster.

    Raises:
        ModelError: the model cannot be loaded, or has no aligner that is known.
        ShardError: a damaged file of clusters or embeddings, or not one clip that can be read.
    """
    folder = Path(recipe.out) / "clusters"
    embedded = embeddings_made_from(recipe, index)
    asked = {"embeddings": embedded, "clusters": recipe.schedule.ads.clusters, "seed": recipe.schedule.ads.seed}
    path = folder / f"clusters-{_digest(asked)}.safetensors"
    if not comm.broadcast_object(path.is_file()):
        parts = Parts(index, folder / f"embeddings-{_digest(embedded)}")
        parts.embed_missing(lambda: _embedder(recipe), comm, recipe.data.workers, on_bad)
        if comm.rank == 0 and not path.is_file():  # another arm may have been faster, and runs by what it wrote
            save_clusters(path, cluster(parts, recipe.schedule.ads.clusters, recipe.schedule.ads.seed, asked))
        comm.barrier()
    return load_clusters(path)


def embeddings_made_from(recipe: Recipe, index: ShardIndex) -> dict[str, Any]:
    """What the embeddings depend on, as plain JSON."""
    return {
        "format": FORMAT,
        "model": base_digest(recipe.model.path),
        "dtype": recipe.model.dtype,
        "data": index.digests,
        "max_duration_s": index.max_duration_s,
    }


def cluster(parts: Parts, k: int, seed: int, made_from: dict[str, Any]) -> Clusters:
    """k-means over all embeddings; they must all be there, and are in memory meanwhile (4H bytes for each clip)."""
    readable, embeddings, seconds = parts.read()
    started = time.monotonic()
    flat = np.full(len(readable), NOWHERE, dtype=np.int32)
    flat[readable] = kmeans_labels(embeddings, k, seed)
    cost = {"clips": len(readable), "embedding_s": seconds, "kmeans_s": time.monotonic() - started}
    labels, begin = {}, 0
    for name in parts.datasets:
        n = parts.index.n_clips(name, "train")
        labels[name], begin = flat[begin : begin + n], begin + n
    return Clusters(labels, made_from, cost)


def _embedder(recipe: Recipe) -> Embed:
    return ClipEmbedder(recipe.model, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


@dataclass(frozen=True)
class Parts:
    """The embeddings of all training clips, dataset by dataset in name order, in files of `PART_CLIPS` clips."""

    index: ShardIndex
    folder: Path

    @property
    def datasets(self) -> list[str]:
        return sorted(self.index.datasets)

    def __len__(self) -> int:
        return -(-sum(self.index.n_clips(name, "train") for name in self.datasets) // PART_CLIPS)

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.safetensors"

    def embed_missing(
        self, make: Callable[[], Embed], comm: Comm, workers: int = 0, on_bad: OnBad | None = None
    ) -> None:
        """Write the parts that are not there yet, the ranks side by side; every rank calls it.

        What is in a part does not depend on the number of ranks, so a stopped job goes on with another one. `make`
        gives the embedder, and is not called for nothing.
        """
        missing: list[int] = comm.broadcast_object([n for n in range(len(self)) if not self.path(n).is_file()])
        mine = missing[comm.rank :: comm.world_size]
        embed, clips = (make(), self._clips()) if mine else (None, [])
        self.folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(max(1, workers), thread_name_prefix="gst-embed") as pool:
            for turn in range(-(-len(missing) // comm.world_size)):
                if turn < len(mine) and embed is not None:
                    here = clips[mine[turn] * PART_CLIPS : (mine[turn] + 1) * PART_CLIPS]
                    self._write(mine[turn], here, embed, pool, on_bad)
                comm.barrier()  # after every part, so that no rank waits for another as long as a collective may take

    def read(self) -> tuple[NDArray[np.bool_], NDArray[np.float32], float]:
        """Which clips could be read [n], their embeddings [n readable, H], and the seconds they took over all ranks.

        Raises:
            ShardError: a part is missing or damaged, or no clip at all could be read.
        """
        readable, embeddings, seconds = [], [], 0.0
        for number in range(len(self)):
            try:
                with safe_open(self.path(number), framework="np") as file:
                    readable.append(file.get_tensor("readable"))
                    embeddings.append(file.get_tensor("embeddings"))
                    seconds += float(file.metadata()["seconds"])
            except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
                raise ShardError(
                    "a part of the embeddings cannot be read",
                    where={"file": self.path(number)},
                    got=str(error),
                    hint="delete this file, then start again; only that part is made anew",
                ) from None
        if not any(map(np.any, readable)):
            raise ShardError(
                "not one training clip can be read", where={"shards": self.index.shards}, hint="run `gst-data lint`"
            )
        return np.concatenate(readable), np.concatenate([part for part in embeddings if len(part)]), seconds

    def _clips(self) -> list[tuple[str, int | None]]:
        """(dataset, its clip's first example) of every clip; None where a clip has no question."""
        clips: list[tuple[str, int | None]] = []
        for name in self.datasets:
            numbers = self.index.clip_numbers(name, "train")
            asked, first = np.unique(numbers, return_index=True)
            example_of = dict(zip(asked.tolist(), first.tolist(), strict=True))
            clips += [(name, example_of.get(clip)) for clip in range(self.index.n_clips(name, "train"))]
        return clips

    def _write(
        self,
        number: int,
        clips: list[tuple[str, int | None]],
        embed: Embed,
        pool: ThreadPoolExecutor,
        on_bad: OnBad | None,
    ) -> None:
        """Embed the clips of one part and write it."""
        started = time.monotonic()
        readable = np.zeros(len(clips), dtype=np.bool_)
        rows: list[NDArray[np.float32]] = []
        for start in range(0, len(clips), BATCH_CLIPS):
            numbered = enumerate(clips[start : start + BATCH_CLIPS], start)
            asked = [(place, name, first) for place, (name, first) in numbered if first is not None]
            examples: list[Example] = []
            got = pool.map(lambda each: try_read(self.index, each[1], "train", each[2]), asked)
            for (place, _, _), each in zip(asked, got, strict=True):
                if isinstance(each, Example):
                    examples.append(each)
                    readable[place] = True
                elif on_bad:
                    on_bad(each.dataset, each.example_id, each.reason)
            if examples:
                rows.append(embed(examples))
        embeddings = np.concatenate(rows) if rows else np.zeros((0, 0), dtype=np.float32)
        seconds = str(time.monotonic() - started)
        write_atomic(self.path(number), save({"readable": readable, "embeddings": embeddings}, {"seconds": seconds}))


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

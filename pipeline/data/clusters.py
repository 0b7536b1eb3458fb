"""Clusters of training clips, and batches that go round them: "ADS", aligner-based diverse sampling, arXiv 2601.12494.

The paper: k-means with K = 500 in the aligner's embedding space, batches drawn round-robin over the clusters. What it
does not say is settled here. Every question of a clip is in the clip's cluster. Each cycle visits every cluster once,
in an order of its own; a cluster that is used up starts another epoch while larger ones go on. A clip whose audio
cannot be read is in no cluster.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pipeline.atomic import write_atomic
from pipeline.data.index import ShardIndex
from pipeline.data.order import example_at, permutation
from pipeline.errors import ShardError

CLUSTERS = "(clusters)"  # the pool's name; no dataset or unit can have it
NOWHERE = -1  # label of a clip that is in no cluster
_HEADER = "clusters"


@dataclass(frozen=True)
class Clusters:
    """The cluster of every training clip.

    Attributes:
        labels: dataset -> [n_clips] int32, 0 to k-1, or `NOWHERE`. No cluster is empty.
        made_from: base model, data and settings, as plain JSON.
        cost: what making them took; not part of what they are.
    """

    labels: dict[str, NDArray[np.int32]]
    made_from: dict[str, Any]
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def k(self) -> int:
        return 1 + max(int(labels.max(initial=NOWHERE)) for labels in self.labels.values())

    @property
    def n_left_out(self) -> int:
        """Clips in no cluster."""
        return sum(int((labels == NOWHERE).sum()) for labels in self.labels.values())

    @cached_property
    def digest(self) -> str:
        digest = hashlib.sha256(json.dumps(self.made_from, sort_keys=True).encode())
        for name, labels in sorted(self.labels.items()):
            digest.update(f"/{name}/{len(labels)}/".encode() + labels.astype("<i4").tobytes())
        return digest.hexdigest()


def save_clusters(path: Path, clusters: Clusters) -> None:
    """Write them, whole or not at all."""
    content = {"digest": clusters.digest, "made_from": clusters.made_from, "cost": clusters.cost}
    header = json.dumps(content, sort_keys=True)
    labels = {name: np.ascontiguousarray(each, dtype=np.int32) for name, each in sorted(clusters.labels.items())}
    write_atomic(path, save(labels, metadata={_HEADER: header}))


def load_clusters(path: Path) -> Clusters:
    """Read what `save_clusters` wrote.

    Raises:
        ShardError: the file is missing, damaged, or was edited.
    """
    hint = "delete it: it is made again from the same embeddings"
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            labels = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is not iterable
        clusters, digest = Clusters(labels, header["made_from"], header["cost"]), header["digest"]
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ShardError("a file of clusters cannot be read", where={"file": path}, got=str(error), hint=hint) from None
    if clusters.digest != digest:
        raise ShardError(
            "a file of clusters is not what was written",
            where={"file": path},
            got=clusters.digest,
            expected=digest,
            hint=hint,
        )
    return clusters


def kmeans_labels(embeddings: NDArray[np.float32], k: int, seed: int) -> NDArray[np.int32]:
    """Cluster of every row [n], by k-means over mini-batches (scikit-learn); numbered without gaps.

    Args:
        embeddings: [n, H].
        k: clusters. With at most k rows each is one of its own; equal rows share theirs, so there may be fewer.
        seed: of the first centres and of the mini-batches.
    """
    from sklearn.cluster import MiniBatchKMeans  # a second to import, which a run without clusters should not pay
    from threadpoolctl import threadpool_limits

    if len(embeddings) <= k:
        return np.asarray(np.unique(embeddings, axis=0, return_inverse=True)[1].reshape(-1), dtype=np.int32)
    kmeans = MiniBatchKMeans(k, random_state=seed, batch_size=max(1024, 3 * k), n_init=3)
    with threadpool_limits(1):  # sums in one order, on any number of cores
        labels = kmeans.fit_predict(embeddings)
    return np.asarray(np.unique(labels, return_inverse=True)[1], dtype=np.int32)


class ClusterPool:
    """All clustered examples as one endless stream that goes round the clusters.

    With K clusters, position p is the p mod K-th turn of cycle p div K. The cycle's permutation of the clusters says
    which has that turn, and the cluster's own order, in epochs, which of its examples is its (p div K)-th. So
    consecutive positions are of different clusters, and a global batch of up to K examples that begins with a cycle
    has no cluster twice.

    Raises:
        ShardError: the clusters were made from other data, or hold no example.
    """

    def __init__(self, index: ShardIndex, clusters: Clusters, split: str = "train") -> None:
        self._datasets = tuple(sorted(index.datasets))
        self._digest = clusters.digest
        label, code, number = [], [], []
        for position, name in enumerate(self._datasets):
            labels = clusters.labels.get(name)
            if labels is None or len(labels) != index.n_clips(name, split):
                raise _other_data(index, clusters, name, split)
            of_example = labels[index.clip_numbers(name, split)]
            label.append(of_example)
            code.append(np.full(len(of_example), position, dtype=np.int32))
            number.append(np.arange(len(of_example)))
        everywhere = np.concatenate(label)
        order = np.argsort(everywhere, kind="stable")  # by cluster; within one by dataset and number
        order = order[everywhere[order] != NOWHERE]
        if not len(order):
            raise ShardError("the clusters hold no example", where={"shards": index.shards})
        self._code = np.concatenate(code)[order]
        self._number = np.concatenate(number)[order]
        sizes = np.bincount(everywhere[order])
        self._sizes = sizes[sizes > 0]  # a cluster whose clips have no question has no turn
        self._first = np.concatenate([[0], np.cumsum(self._sizes)[:-1]])

    @property
    def datasets(self) -> tuple[str, ...]:
        return self._datasets

    @property
    def digest(self) -> str | None:
        return self._digest

    @property
    def k(self) -> int:
        """Clusters that have a turn."""
        return len(self._sizes)

    def __len__(self) -> int:
        return len(self._code)

    def at(self, seed: int, position: int) -> tuple[str, int]:
        """Dataset and number of the example at `position`."""
        cycle, turn = divmod(position, self.k)
        cluster = int(_turns(seed, cycle, self.k)[turn])
        within = example_at(seed, _stream(cluster), int(self._sizes[cluster]), cycle)
        place = int(self._first[cluster]) + within
        return self._datasets[self._code[place]], int(self._number[place])

    def consumed(self, seed: int, position: int) -> dict[str, int]:
        """Dataset -> its examples before `position`, counted cluster by cluster and not one by one."""
        cycles, rest = divmod(position, self.k)
        taken = np.full(self.k, cycles)
        taken[_turns(seed, cycles, self.k)[:rest]] += 1
        counts = np.zeros(len(self._datasets), dtype=np.int64)
        for cluster, (n, first) in enumerate(zip(self._sizes.tolist(), self._first.tolist(), strict=True)):
            epochs, left = divmod(int(taken[cluster]), n)
            codes = self._code[first : first + n]
            begun = codes[permutation(seed, _stream(cluster), epochs, n)[:left]]
            for part, times in ((codes, epochs), (begun, 1)):
                counts += times * np.bincount(part, minlength=len(counts))
        return {name: int(n) for name, n in zip(self._datasets, counts, strict=True) if n}


def _turns(seed: int, cycle: int, k: int) -> NDArray[np.uint32]:
    """The order of the clusters in one cycle."""
    return permutation(seed, "ads/cycle", cycle, k)


def _stream(cluster: int) -> str:
    return f"ads/cluster/{cluster}"


def _other_data(index: ShardIndex, clusters: Clusters, dataset: str, split: str) -> ShardError:
    labels = clusters.labels.get(dataset)
    return ShardError(
        "the clusters were made from other data",
        where={"dataset": dataset, "shards": index.shards},
        got="no such dataset" if labels is None else f"{len(labels)} clips",
        expected=f"{index.n_clips(dataset, split)} clips",
        hint="make them from these shards: a run does that when they are missing",
    )

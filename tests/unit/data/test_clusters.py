from __future__ import annotations

from collections import Counter
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.clusters import NOWHERE, ClusterPool, Clusters, kmeans_labels, load_clusters, save_clusters
from pipeline.data.index import ShardIndex
from pipeline.data.order import permutation
from pipeline.errors import ShardError

from .conftest import SIZES

# 16 clips in 4 clusters that cross the datasets; one clip could not be read.
LABELS = {
    "alpha": np.array([0, 1, 1, 3, 0], dtype=np.int32),
    "beta": np.array([1, 1, 2, NOWHERE, 3, 3, 3, 0, 1], dtype=np.int32),
    "gamma": np.array([3, 2], dtype=np.int32),
}
CLUSTERS = Clusters(LABELS, {"model": "m", "clusters": 4})


def by_the_definition(index: ShardIndex, clusters: Clusters, seed: int):
    """Round-robin over clusters, written out: cycle after cycle, one sample of each cluster, in the cycle's order."""
    members: dict[int, list[tuple[str, int]]] = {}
    for name in sorted(clusters.labels):
        for i, clip in enumerate(index.clip_numbers(name, "train")):
            members.setdefault(int(clusters.labels[name][clip]), []).append((name, i))
    members.pop(NOWHERE, None)
    for cycle in count():
        for cluster in permutation(seed, "ads/cycle", cycle, len(members)).tolist():
            epoch, sample = divmod(cycle, len(members[cluster]))
            order = permutation(seed, f"ads/cluster/{cluster}", epoch, len(members[cluster]))
            yield members[cluster][order[sample]]


@pytest.mark.parametrize("seed", [0, 7])
def test_the_stream_goes_round_the_clusters(index: ShardIndex, seed: int) -> None:
    pool = ClusterPool(index, CLUSTERS)
    drawn = [pool.at(seed, position) for position in range(200)]
    assert drawn == list(islice(by_the_definition(index, CLUSTERS, seed), 200))
    clips = {name: index.clip_numbers(name, "train") for name in SIZES}
    visits = [int(LABELS[name][clips[name][i]]) for name, i in drawn]
    cycles = [tuple(visits[start : start + 4]) for start in range(0, 200, 4)]
    assert all(sorted(cycle) == [0, 1, 2, 3] for cycle in cycles) and len(set(cycles)) > 4
    for cluster in range(4):
        own = [example for example, visit in zip(drawn, visits, strict=True) if visit == cluster]
        n = sum(int((LABELS[name][clips[name]] == cluster).sum()) for name in SIZES)
        epochs = [own[start : start + n] for start in range(0, len(own) - n, n)]
        assert epochs and all(len(set(epoch)) == n and set(epoch) == set(own) for epoch in epochs)


def test_any_position_is_found_without_those_before_it(index: ShardIndex) -> None:
    pool, again = ClusterPool(index, CLUSTERS), ClusterPool(index, CLUSTERS)
    forward = [pool.at(1, position) for position in range(60)]
    assert [again.at(1, position) for position in reversed(range(60))] == forward[::-1]
    assert forward != [pool.at(2, position) for position in range(60)]


def test_what_was_consumed_is_counted_exactly(index: ShardIndex) -> None:
    pool, seen = ClusterPool(index, CLUSTERS), Counter()
    for position in range(150):
        assert pool.consumed(5, position) == dict(seen)
        seen[pool.at(5, position)[0]] += 1


def test_clips_in_no_cluster_are_never_drawn(index: ShardIndex) -> None:
    pool = ClusterPool(index, CLUSTERS)
    left_out = {("beta", i) for i, clip in enumerate(index.clip_numbers("beta", "train")) if clip == 3}
    drawn = {pool.at(0, position) for position in range(400)}
    assert CLUSTERS.n_left_out == 1 and len(left_out) == 2 and not drawn & left_out
    everything = sum(index.n_examples(name, "train") for name in SIZES)
    assert len(drawn) == len(pool) == everything - 2


def test_clusters_of_other_data_are_refused(index: ShardIndex) -> None:
    for labels in ({**LABELS, "gamma": LABELS["gamma"][:1]}, {"alpha": LABELS["alpha"]}):
        with pytest.raises(ShardError, match=r"(?s)made from other data.*dataset"):
            ClusterPool(index, Clusters(labels, {}))
    nothing = {name: np.full_like(labels, NOWHERE) for name, labels in LABELS.items()}
    with pytest.raises(ShardError, match="no example"):
        ClusterPool(index, Clusters(nothing, {}))


def test_a_file_keeps_them_and_shows_any_change(tmp_path: Path) -> None:
    path = tmp_path / "clusters.safetensors"
    save_clusters(path, Clusters(LABELS, CLUSTERS.made_from, {"kmeans_s": 1.5}))
    back = load_clusters(path)
    assert back.digest == CLUSTERS.digest and back.k == 4 and back.cost == {"kmeans_s": 1.5}
    assert back.made_from == CLUSTERS.made_from
    assert all(np.array_equal(back.labels[name], LABELS[name]) for name in LABELS)
    content = path.read_bytes()
    save_clusters(path, Clusters(LABELS, CLUSTERS.made_from, {"kmeans_s": 1.5}))
    assert path.read_bytes() == content
    for damaged in (content[:-4] + b"\0\0\0\1", content[:-9], b""):
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match=r"(?s)clusters.*delete it"):
            load_clusters(path)
    other = Clusters({**LABELS, "gamma": LABELS["gamma"][::-1].copy()}, CLUSTERS.made_from)
    assert len({CLUSTERS.digest, other.digest, Clusters(LABELS, {"model": "n"}).digest}) == 3


def blobs(n: int = 300, centres: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(centres, size=n)
    return (10 * rng.normal(size=(centres, 8))[truth] + rng.normal(size=(n, 8))).astype(np.float32), truth


def test_kmeans_finds_what_is_there_and_repeats_itself() -> None:
    rows, truth = blobs()
    labels = kmeans_labels(rows, 6, seed=1)
    assert len(set(zip(labels.tolist(), truth.tolist(), strict=True))) == 6
    assert np.array_equal(labels, kmeans_labels(rows, 6, seed=1))
    assert set(kmeans_labels(rows, 40, seed=1).tolist()) == set(range(kmeans_labels(rows, 40, seed=1).max() + 1))


def test_there_are_fewer_clusters_where_there_are_fewer_clips() -> None:
    rows, _ = blobs(20)
    assert sorted(kmeans_labels(rows, 500, seed=0).tolist()) == list(range(20))
    assert sorted(kmeans_labels(rows, 20, seed=0).tolist()) == list(range(20))
    twins = kmeans_labels(np.concatenate([rows, rows]), 500, seed=0)
    assert np.array_equal(twins[:20], twins[20:]) and twins.max() == 19

"""Orders in which micro-batches hold clips of like duration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.data.clusters import ClusterPool, Clusters
from pipeline.data.index import ShardIndex
from pipeline.data.order import bucketed_permutation, permutation
from pipeline.data.pools import DatasetPool, bucketed
from pipeline.errors import ConfigError

from .shards import duration_s


def durations(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).lognormal(size=n).astype(np.float32)


def stream(n: int, micro_batch: int, window: int, epochs: int, seed: int = 1) -> NDArray[np.uint32]:
    """Some whole epochs, end to end."""
    lengths = durations(n)
    orders = [bucketed_permutation(seed, "clotho", epoch, lengths, micro_batch, window) for epoch in range(epochs)]
    return np.concatenate(orders)


def padded_s(order: NDArray[np.uint32], micro_batch: int) -> float:
    """Seconds of padding when every clip is as long as the longest of its micro-batch."""
    whole = order[: len(order) // micro_batch * micro_batch].reshape(-1, micro_batch)
    lengths = durations(int(order.max()) + 1)[whole]
    return float((lengths.max(axis=1, keepdims=True) - lengths).sum())


@given(
    n=st.integers(1, 90),
    micro_batch=st.integers(1, 8),
    window=st.integers(1, 12),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 40),
)
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_moved_about_inside_its_windows_only(
    n: int, micro_batch: int, window: int, seed: int, epoch: int
) -> None:
    plain = permutation(seed, "clotho", epoch, n)
    moved = bucketed_permutation(seed, "clotho", epoch, durations(n), micro_batch, window)
    # In the stream of epochs this one begins at epoch * n; micro-batches begin at multiples of their size.
    whole = [k for k in range(n) if (epoch * n + k) % micro_batch == 0 and k + micro_batch <= n]
    edges = (whole[0], whole[-1] + micro_batch) if whole else (n, n)
    for start, stop in ((0, edges[0]), (edges[1], n)):
        assert moved[start:stop].tolist() == plain[start:stop].tolist()
    for start in range(edges[0], edges[1], micro_batch * window):
        part = slice(start, min(start + micro_batch * window, edges[1]))
        assert sorted(moved[part].tolist()) == sorted(plain[part].tolist())
        batches = durations(n)[moved[part]].reshape(-1, micro_batch)
        ordered = batches[np.argsort(batches[:, 0], kind="stable")]
        assert (np.diff(ordered.reshape(-1)) >= 0).all()


def test_micro_batches_do_not_come_in_the_order_of_their_durations() -> None:
    firsts = [stream(400, 4, 50, 1, seed)[:200:4] for seed in range(5)]
    lengths = durations(400)
    rising = [(np.diff(lengths[first]) > 0).mean() for first in firsts]
    assert all(0.2 < share < 0.8 for share in rising)
    assert len({tuple(first.tolist()) for first in firsts}) == 5


def test_padding_falls_as_windows_grow() -> None:
    shares = [padded_s(stream(2000, 8, window, 3), 8) for window in (1, 4, 16, 64)]
    assert shares == sorted(shares, reverse=True)
    assert shares[2] < 0.3 * shares[0]


def test_the_order_is_the_one_of_earlier_releases() -> None:
    # Golden values: a change here breaks the resume of every saved run with data.bucket.
    lengths = np.array([5, 1, 4, 2, 3, 9, 8, 7, 6, 0], dtype=np.float32)
    assert bucketed_permutation(7, "clotho", 3, lengths, 2, 2).tolist() == GOLDEN


GOLDEN = [6, 5, 1, 7, 2, 8, 9, 3, 4, 0]


def test_a_pool_in_buckets_holds_what_it_held(index: ShardIndex) -> None:
    numbers = np.array([1, 4, 5, 6, 9, 10, 12])
    pool = DatasetPool("beta@1", "beta", len(numbers), numbers)
    moved = bucketed(pool, index, "train", 2, 3)
    assert (len(moved), moved.datasets, moved.digest) == (len(pool), pool.datasets, pool.digest)
    for epoch in range(3):
        drawn = [moved.at(5, epoch * len(pool) + place) for place in range(len(pool))]
        assert sorted(drawn) == [("beta", i) for i in numbers.tolist()]
    assert moved.consumed(5, 9) == {"beta": 9}


def test_durations_are_those_of_the_clips(index: ShardIndex) -> None:
    clips = index.clip_numbers("beta", "train").tolist()
    assert index.durations_s("beta", "train").tolist() == pytest.approx([duration_s(clip) for clip in clips])


def test_clusters_cannot_be_bucketed(index: ShardIndex) -> None:
    labels = {name: np.zeros(index.n_clips(name, "train"), dtype=np.int32) for name in index.datasets}
    with pytest.raises(ConfigError, match=r"(?s)by cluster.*data\.bucket"):
        bucketed(ClusterPool(index, Clusters(labels, {})), index, "train", 2, 4)

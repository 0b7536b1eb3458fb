from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.order import example_at, permutation, uniforms


@given(seed=st.integers(0, 2**62), n=st.integers(1, 200), epoch=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_every_epoch_visits_every_example_once(seed: int, n: int, epoch: int) -> None:
    visited = [example_at(seed, "clotho", n, epoch * n + k) for k in range(n)]
    assert sorted(visited) == list(range(n))


def test_seed_dataset_and_epoch_each_change_the_order() -> None:
    base = permutation(1, "clotho", 0, 50).tolist()
    others = [permutation(2, "clotho", 0, 50), permutation(1, "macs", 0, 50), permutation(1, "clotho", 1, 50)]
    assert all(other.tolist() != base for other in others)


def test_order_is_the_one_of_earlier_releases() -> None:
    # Golden values: a change here breaks the resume of every saved run.
    assert permutation(7, "clotho", 3, 10).tolist() == [5, 6, 7, 1, 2, 3, 9, 8, 0, 4]
    assert uniforms(7, "mixture", 5, 2).tolist() == [0.1203836584728234, 0.20045021065991075]


def test_first_place_is_uniform() -> None:
    first = np.bincount([example_at(s, "a", 4, 0) for s in range(2000)], minlength=4)
    assert first.min() > 400


def test_counters_do_not_share_numbers() -> None:
    rows = np.concatenate([uniforms(1, "mixture", slot, 9) for slot in range(50)])
    assert len(set(rows.tolist())) == rows.size
    assert rows.min() >= 0 and rows.max() < 1

"""Conflict statistics of a window of training."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.affinity.conflict import conflict_summary
from pipeline.affinity.estimator import GradientStats, corrected_gram


@pytest.fixture
def stats() -> GradientStats:
    """`a` and `c` agree, `b` opposes them, `once` has one micro-batch, `noise` has no direction of its own."""
    rng = np.random.default_rng(0)
    towards = np.zeros(64)
    towards[0] = 3.0
    signs = {"a": 1, "b": -1, "c": 1, "noise": 0}
    rows = {name: sign * towards + 0.1 * rng.standard_normal((8, 64)) for name, sign in signs.items()}
    rows["once"] = np.ones((1, 64))
    return GradientStats.from_batches(rows)


def test_opposed_pairs_are_counted_and_unseen_datasets_left_out(stats: GradientStats) -> None:
    summary = conflict_summary(stats.select(["a", "b", "c", "once"]))
    assert summary["datasets"] == 3
    assert summary["negative_share"] == pytest.approx(2 / 3)
    assert summary["mean_cosine"] == pytest.approx(-1 / 3, abs=0.05)
    assert set(summary["noise_scale"]) == {"a", "b", "c"}
    assert conflict_summary(GradientStats.from_batches({"a": np.ones((1, 4))})) == {"datasets": 0, "dropped": 0}


def test_every_pair_with_a_known_cosine_is_there_once(stats: GradientStats) -> None:
    summary = conflict_summary(stats)
    assert {a: set(row) for a, row in summary["cosine"].items()} == {"a": {"b", "c"}, "b": {"c"}}
    assert summary["cosine"]["a"]["b"] == pytest.approx(-1, abs=0.01)
    assert summary["datasets"] == 4
    json.dumps(summary, allow_nan=False)


def test_noise_is_counted_in_micro_batches_also_when_whole_steps_were_sketched(stats: GradientStats) -> None:
    pair = stats.select(["a", "b"])
    one, eight = (conflict_summary(pair, micro_batches_per_count=n)["noise_scale"]["a"] for n in (1, 8))
    assert one == pytest.approx(corrected_gram(pair).noise_scale[0])
    assert eight == pytest.approx(8 * one)


def test_dropped_micro_batches_are_told_by_dataset(stats: GradientStats) -> None:
    summary = conflict_summary(replace(stats, dropped=np.array([0, 2, 0, 1, 0])))
    assert summary["dropped"] == 3 and summary["dropped_by_dataset"] == {"b": 2, "noise": 1}

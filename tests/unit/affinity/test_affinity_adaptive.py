"""How many micro-batches a probe adds, and where it stops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from pipeline.affinity.adaptive import more_batches_needed
from pipeline.affinity.estimator import GradientStats, corrected_gram
from pipeline.affinity.resample import bootstrap

K = 256
NOISE_SCALES = {"clear": 0.5, "noisy": 20.0, "noisier": 60.0}


def draw(name: str, batches: int, scale: float) -> np.ndarray:
    """The first micro-batches of a fixed sequence with a mean of norm 1 and this noise scale."""
    rng = np.random.default_rng([3, *name.encode()])
    mean = rng.standard_normal(K)
    return mean / np.linalg.norm(mean) + np.sqrt(scale / K) * rng.standard_normal((batches, K))


def stats_of(counts: Mapping[str, int], scales: Mapping[str, float] = NOISE_SCALES) -> GradientStats:
    return GradientStats.from_batches({name: draw(name, n, scales[name]) for name, n in counts.items()})


def run(scales: Mapping[str, float], start: int, rules: Callable[[GradientStats], dict[str, int]]) -> list[dict]:
    """Counts after each round."""
    counts = [dict.fromkeys(scales, start)]
    while more := rules(stats_of(counts[-1], scales)):
        counts.append({name: n + more.get(name, 0) for name, n in counts[-1].items()})
        assert len(counts) < 20
    return counts


def test_rounds_end_at_twice_the_noise_scale_of_each_dataset() -> None:
    rounds = run(NOISE_SCALES, 8, lambda stats: more_batches_needed(stats, most=1000))
    assert rounds[0] == {"clear": 8, "noisy": 8, "noisier": 8}
    assert rounds[1] == {"clear": 8, "noisy": 16, "noisier": 16}, "no round more than doubles"
    last = corrected_gram(stats_of(rounds[-1]))
    counts = np.array(list(rounds[-1].values()))
    assert (counts >= 2 * last.noise_scale).all()
    assert rounds[-1]["clear"] == 8 and 25 < rounds[-1]["noisy"] < 60 < rounds[-1]["noisier"] < 250


def test_rounds_are_bounded_by_the_recipe_and_by_what_a_dataset_has() -> None:
    stats = stats_of(dict.fromkeys(NOISE_SCALES, 8))
    assert more_batches_needed(stats, most=10) == {"noisy": 2, "noisier": 2}
    assert more_batches_needed(stats, most=8) == {}
    there = {"clear": 100, "noisy": 8, "noisier": 11}
    assert more_batches_needed(stats, most=1000, available=there) == {"noisier": 3}
    pure_noise = GradientStats.from_batches({name: draw(name, 8, 1e9) for name in "abcdef"})
    lost = [name for name, b in zip("abcdef", corrected_gram(pure_noise).noise_scale, strict=True) if np.isinf(b)]
    assert lost and more_batches_needed(pure_noise, most=1000).items() >= dict.fromkeys(lost, 8).items()


def test_a_wanted_width_is_reached_by_the_noisier_datasets() -> None:
    scales = {"a": 1.0, "b": 1.5, "c": 6.0}
    start = dict.fromkeys(scales, 16)
    assert more_batches_needed(stats_of(start, scales), most=4096) == {}
    first = more_batches_needed(stats_of(start, scales), most=4096, width=0.25)
    assert first.keys() == {"c"}, "the noisiest of all is in every pair that is too wide"
    counts = run(scales, 16, lambda stats: more_batches_needed(stats, most=4096, width=0.25))[-1]
    assert counts["a"] < counts["c"] < 4096
    stats = stats_of(counts, scales)
    intervals, distance = bootstrap(stats, 100), corrected_gram(stats).distance_sq
    upper = np.triu_indices(3, 1)
    widths = (intervals.distance_high - intervals.distance_low)[upper] / np.median(distance[upper])
    assert widths.max() <= 0.25
    assert more_batches_needed(replace(stats_of(start, scales), batches=None), most=4096, width=0.5) == {}


def test_jobs_that_probe_together_need_less_each() -> None:
    stats = stats_of(dict.fromkeys(NOISE_SCALES, 16))
    b = corrected_gram(stats).noise_scale[1]
    alone, together = more_batches_needed(stats, most=99), more_batches_needed(stats, most=99, jobs=2)
    assert alone["noisy"] == min(np.ceil(2 * b), 32) - 16
    assert together.get("noisy", 0) == max(np.ceil(b), 16) - 16
    quiet = stats_of(dict.fromkeys("abc", 16), {"a": 1.0, "b": 1.5, "c": 6.0})
    narrow = more_batches_needed(quiet, most=99, width=0.25)
    assert narrow and more_batches_needed(quiet, most=99, width=0.125, jobs=4) == narrow


def test_datasets_without_enough_to_be_measured_come_first() -> None:
    rows = {"a": draw("clear", 1, 0.5), "b": draw("noisy", 8, 0.5), "c": draw("noisier", 3, 0.5)}
    stats = GradientStats.from_batches(rows)
    assert more_batches_needed(stats, most=64) == {"a": 1}
    assert more_batches_needed(stats, most=64, width=1e6) == {"a": 1, "c": 1}
    assert more_batches_needed(stats, most=64, available={"b": 64, "c": 64}) == {}
    short = GradientStats.from_batches({name: draw("clear", 3, 0.1) for name in "ab"})
    assert more_batches_needed(short, most=64, width=1e6) == {"a": 1, "b": 1}
    empty = GradientStats(["a", "b"], np.array([0, 0]), np.zeros((2, 4)), np.zeros(2))
    assert more_batches_needed(empty, most=64, width=1.0) == {"a": 2, "b": 2}


def test_equal_gradients_have_no_distance_that_a_width_could_be_a_share_of() -> None:
    same = GradientStats.from_batches({name: np.ones((8, 4)) for name in "ab"})
    assert more_batches_needed(same, most=64, width=0.5) == {}


def test_weights_count_by_what_they_average_out(planted: Callable) -> None:
    stats = stats_of({"noisy": 64}, {"noisy": 20.0})
    assert more_batches_needed(stats, most=1000) == {}
    w = np.where(np.arange(64) < 8, 10.0, 0.1)
    weighted = replace(
        stats,
        sum=(w @ stats.batches[0])[None],
        sum_sq=np.array([w**2 @ np.square(stats.batches[0]).sum(1)]),
        weight=np.array([w.sum()]),
        weight_sq=np.array([np.square(w).sum()]),
        batch_weights=[w],
    )
    assert more_batches_needed(weighted, most=1000) == {"noisy": 64}


@pytest.mark.parametrize("width", [None, 0.5])
def test_decisions_are_deterministic(width: float | None) -> None:
    stats = stats_of(dict.fromkeys(NOISE_SCALES, 8))
    assert more_batches_needed(stats, most=99, width=width) == more_batches_needed(stats, most=99, width=width)

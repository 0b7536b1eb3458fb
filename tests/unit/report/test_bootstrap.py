from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.report.bootstrap import Part, draw_means, example_counts, rates, seed_differences, two_level


def some_parts(n_seeds: int = 5, sizes: tuple[int, ...] = (7, 12, 30), seed: int = 0) -> list[Part]:
    rng = np.random.default_rng(seed)
    parts = []
    for n in sizes:
        tokens = rng.integers(1, 9, n)
        ours, theirs = rng.binomial(tokens, 0.6, (n_seeds, n)), rng.binomial(tokens, 0.5, (n_seeds, n))
        parts.append(Part((ours - theirs).astype(float), tokens.astype(float), n / sum(sizes)))
    return parts


def slow_mean(parts: list[Part], seeds: list[int], examples: list[list[int]]) -> float:
    """One draw, picked out one by one: seeds and each dataset's examples with repetition."""
    of_seeds = []
    for s in seeds:
        total = 0.0
        for part, picked in zip(parts, examples, strict=True):
            right = sum(part.differences[s, e] for e in picked)
            total += part.share * right / sum(part.denominators[e] for e in picked)
        of_seeds.append(total)
    return sum(of_seeds) / len(of_seeds)


def counts_of(picked: list[int], n: int) -> np.ndarray:
    return np.bincount(picked, minlength=n).astype(float)


def test_counting_draws_is_picking_them_out():
    parts = some_parts()
    rng = np.random.default_rng(1)
    for _ in range(20):
        seeds = rng.integers(5, size=5).tolist()
        picked = [rng.integers(part.denominators.size, size=part.denominators.size).tolist() for part in parts]
        resampled = [
            part.share * rates(part, counts_of(chosen, part.denominators.size)[None])
            for part, chosen in zip(parts, picked, strict=True)
        ]
        fast = draw_means(resampled, counts_of(seeds, 5)[None])
        assert fast[0] == pytest.approx(slow_mean(parts, seeds, picked), rel=1e-12)


def test_counts_are_picks_with_replacement():
    counts = example_counts(6, 20_000, np.random.default_rng(0))
    assert (counts.sum(axis=1) == 6).all()
    # Multinomial: mean 1, variance 1 - 1/6, covariance -1/6.
    assert np.cov(counts.T) == pytest.approx(np.eye(6) - 1 / 6, abs=0.03)


def test_the_difference_is_the_mean_over_seeds_of_weighted_token_accuracy():
    first = Part(np.array([[1.0, 0.0], [2.0, 1.0]]), np.array([2.0, 8.0]), 0.25)
    second = Part(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([1.0, 1.0]), 0.75)
    # Seed 0: 0.25 * 1/10; seed 1: 0.25 * 3/10 + 0.75 * 1/2.
    assert seed_differences([first, second]) == pytest.approx([0.025, 0.45])
    assert two_level([first, second]).difference == pytest.approx(0.2375)


def test_errors_are_those_of_theory_for_plain_means():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(6, 400))
    found = two_level([Part(values, np.ones(400), 1.0)], draws=20_000)
    assert found.seed_error == pytest.approx(values.mean(axis=1).std(ddof=1) / math.sqrt(6))
    assert found.example_error == pytest.approx(values.mean(axis=0).std(ddof=1) / 20, rel=0.03)
    assert (found.n_seeds, found.n_examples) == (6, 400)


def test_with_equal_seeds_only_examples_count_and_with_equal_examples_only_seeds():
    rng = np.random.default_rng(3)
    examples = two_level([Part(np.tile(rng.normal(size=(1, 50)), (5, 1)), np.ones(50), 1.0)])
    assert examples.seed_error == pytest.approx(0.0, abs=1e-12)
    seeds = two_level([Part(np.tile(rng.normal(size=(5, 1)), (1, 50)), np.ones(50), 1.0)])
    assert seeds.example_error == pytest.approx(0.0, abs=1e-12)
    # Then it is the t interval over seeds.
    half = (seeds.interval[1] - seeds.interval[0]) / 2
    assert half == pytest.approx(2.776445 * seeds.seed_error, rel=1e-5)


def test_all_seeds_and_arms_share_a_draw_of_examples():
    """Five copies of one seed are as uncertain over examples as one: a nested scheme would say sqrt(5) less."""
    one = np.random.default_rng(4).normal(size=(1, 60))
    single = two_level([Part(one, np.ones(60), 1.0)])
    five = two_level([Part(np.tile(one, (5, 1)), np.ones(60), 1.0)])
    assert five.example_error == pytest.approx(single.example_error, rel=1e-9)


def test_few_seeds_give_an_interval_over_examples_only_and_say_so():
    found = two_level(some_parts(n_seeds=4))
    assert found.note == "test examples only: 4 seed(s) are too few to resample"
    assert (found.seed_error, found.percentile) == (None, None)
    assert found.interval[0] < found.difference < found.interval[1]
    assert two_level(some_parts(n_seeds=5)).note == ""


def test_the_draws_are_repeatable_and_do_not_depend_on_block_size(monkeypatch: pytest.MonkeyPatch):
    whole = two_level(some_parts())
    assert two_level(some_parts()) == whole
    assert two_level(some_parts(), seed=1) != whole
    monkeypatch.setattr("pipeline.report.bootstrap._PICKS_AT_ONCE", 100)
    assert two_level(some_parts()).interval == pytest.approx(whole.interval, rel=1e-9)


def test_what_cannot_be_computed_is_said():
    assert two_level([]).note == "no test examples"
    broken = some_parts()
    broken[1].differences[0, 0] = math.nan
    assert (two_level(broken).interval, two_level(broken).note) == (None, "a value is NaN")
    same = Part(np.zeros((5, 10)), np.ones(10), 1.0)
    assert (two_level([same]).interval, two_level([same]).note) == (None, "the differences do not vary")
    assert "single test example" in two_level([*some_parts(), Part(np.ones((5, 1)), np.ones(1), 0.1)]).note

"""The report's tests and intervals on simulated runs: as many false positives as they say, and no fewer findings.

Bounds are those of the binomial: 3 standard deviations of a rate over so many simulations.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.report.bootstrap import Part, TwoLevel, two_level
from pipeline.report.stats import compare_pairs, detectable_difference, holm, non_inferior, sign_flip_p

SIMULATIONS = 1_000
ARMS = 8


def slack(rate: float, n: int = SIMULATIONS) -> float:
    return 3 * math.sqrt(rate * (1 - rate) / n)


def paired_runs(rng: np.random.Generator, n: int, difference: float = 0.0) -> tuple[dict[int, float], dict[int, float]]:
    """Two arms on n seeds: noise that a seed gives both (data order), and noise of each run."""
    shared = rng.normal(0.6, 0.02, n)
    ours, theirs = (shared + rng.normal(0, 0.01, n) for _ in range(2))
    return dict(enumerate(ours + difference)), dict(enumerate(theirs))


def test_the_paired_t_test_errs_at_its_level_and_non_inferiority_at_one_side():
    rng = np.random.default_rng(0)
    paired = [compare_pairs(*paired_runs(rng, 4)) for _ in range(SIMULATIONS)]
    rate = np.mean([item.t_p < 0.05 for item in paired])
    assert abs(rate - 0.05) <= slack(0.05)
    assert rate == np.mean([item.interval[0] > 0 or item.interval[1] < 0 for item in paired])
    assert abs(np.mean([non_inferior(item).holds for item in paired]) - 0.05) <= slack(0.05)
    # Truly worse by exactly the margin: the border of what the test must not wave through.
    worse = [compare_pairs(*paired_runs(rng, 4, -0.01)) for _ in range(SIMULATIONS)]
    assert abs(np.mean([non_inferior(item, 0.01).holds for item in worse]) - 0.05) <= slack(0.05)


def test_the_sign_flip_test_errs_at_the_level_it_can_have_and_finds_what_is_there():
    rng = np.random.default_rng(1)

    def rate(shift: float) -> float:
        # Heavy tails: the sign-flip test assumes symmetry only.
        draws = rng.standard_t(3, size=(SIMULATIONS, 8)) + shift
        return float(np.mean([sign_flip_p(row) < 0.05 for row in draws]))

    attainable = 12 / 2**8  # the largest level of 8 pairs that is below 0.05 and even in number of patterns
    assert abs(rate(0.0) - attainable) <= slack(attainable)
    assert rate(2.5) > 0.8


def test_holm_keeps_the_errors_of_a_whole_family_and_still_finds():
    rng = np.random.default_rng(2)
    n = 5
    baseline = rng.normal(size=(SIMULATIONS, 1, n))
    effects = np.zeros(ARMS)
    effects[0] = 6.0  # one arm is truly better than the baseline, the other seven are like it
    arms = rng.normal(size=(SIMULATIONS, ARMS, n)) + effects[:, None]
    p_values = stats.ttest_1samp(arms - baseline, 0.0, axis=2).pvalue
    found = np.array([[p < 0.05 for p in holm(dict(zip("abcdefgh", row, strict=True))).values()] for row in p_values])
    uncorrected = (p_values[:, 1:] < 0.05).any(axis=1).mean()
    assert found[:, 1:].any(axis=1).mean() <= 0.05 + slack(0.05)
    assert uncorrected > 0.15  # what the correction is for
    assert found[:, 0].mean() > 0.5
    nothing = np.delete(p_values, 0, axis=1)
    family = [min(holm({str(i): p for i, p in enumerate(row)}).values()) < 0.05 for row in nothing]
    assert 0.01 < np.mean(family) <= 0.05 + slack(0.05)


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.05), (3, 0.05), (5, 0.05), (5, 0.05 / 8), (20, 0.05)])
def test_a_detectable_difference_is_found_with_the_power_stated(n: int, alpha: float):
    rng = np.random.default_rng(3)
    spread, simulations = 0.7, 4_000
    draws = rng.normal(detectable_difference(n, spread, alpha=alpha), spread, (simulations, n))
    power = (stats.ttest_1samp(draws, 0.0, axis=1).pvalue < alpha).mean()
    assert abs(power - 0.8) <= slack(0.8, simulations)


def answers(
    rng: np.random.Generator, *, n_seeds: int, of_run: float, of_example: float, better: float = 0.0
) -> list[Part]:
    """Two arms alike but for `better`, on the same examples: right tokens are binomial.

    Args:
        of_run, of_example: standard deviations of a run's and of an arm's probability of a right token, over seeds and
            over examples. What is left is the noise of single answers.
    """
    parts = []
    n_datasets, n_examples = 6, 40
    runs = rng.normal(0, of_run, (2, n_seeds, 1)) + np.array([better, 0.0])[:, None, None]
    for _ in range(n_datasets):
        tokens = rng.integers(1, 13, n_examples)
        difficulty = rng.normal(0.65, 0.2, n_examples)
        on_dataset = rng.normal(0, of_run / 2, (2, n_seeds, 1))
        p = difficulty + rng.normal(0, of_example, (2, 1, n_examples)) + runs + on_dataset
        correct = rng.binomial(tokens, np.clip(p, 0, 1))
        parts.append(Part((correct[0] - correct[1]).astype(float), tokens.astype(float), 1 / n_datasets))
    return parts


def excludes_zero(found: TwoLevel, which: str = "interval") -> bool:
    low, high = getattr(found, which)
    return low > 0 or high < 0


@pytest.mark.parametrize("n_seeds", [5, 8])
def test_the_two_level_interval_errs_near_its_level_and_finds_what_is_there(n_seeds: int):
    rng = np.random.default_rng(4)
    noise = {"n_seeds": n_seeds, "of_run": 0.02, "of_example": 0.1}
    null = [two_level(answers(rng, **noise), draws=300) for _ in range(SIMULATIONS)]
    errors = np.mean([excludes_zero(item) for item in null])
    assert 0.02 <= errors <= 0.05 + slack(0.05)
    # Either source of noise alone makes an interval that is wrong far more often.
    for error in ("seed_error", "example_error"):
        alone = np.mean([abs(item.difference) > 1.96 * getattr(item, error) for item in null])
        assert alone > 0.05 + 2 * slack(0.05), error
    error = np.mean([math.hypot(item.seed_error, item.example_error) for item in null])
    found = [two_level(answers(rng, **noise, better=4 * error), draws=300) for _ in range(SIMULATIONS // 4)]
    assert np.mean([excludes_zero(item) and item.difference > 0 for item in found]) > 0.8


def test_with_seed_noise_alone_the_interval_holds_where_percentiles_do_not():
    rng = np.random.default_rng(5)
    tokens = np.full(20, 5.0)
    runs = rng.normal(0, 1, (SIMULATIONS, 5, 1)) + rng.normal(0, 1e-3, (SIMULATIONS, 5, 20))
    null = [two_level([Part(noise * tokens, tokens, 1.0)], draws=300) for noise in runs]
    assert abs(np.mean([excludes_zero(item) for item in null]) - 0.05) <= slack(0.05)
    assert np.mean([excludes_zero(item, "percentile") for item in null]) > 0.1


def test_with_noise_of_single_answers_alone_the_interval_errs_to_the_wide_side():
    rng = np.random.default_rng(6)
    null = [two_level(answers(rng, n_seeds=5, of_run=0.0, of_example=0.0), draws=300) for _ in range(SIMULATIONS)]
    assert np.mean([excludes_zero(item) for item in null]) <= 0.05


def test_over_test_examples_only_the_interval_speaks_of_these_runs():
    """Two seeds: it covers what these runs would differ by on endless examples, and not what other seeds would give."""
    rng = np.random.default_rng(7)
    hit, missed = 0, 0
    for _ in range(SIMULATIONS):
        runs = rng.normal(0, 0.05, (2, 1))
        tokens = rng.integers(1, 13, 200).astype(float)
        noise = rng.normal(0, 0.3, 200) + rng.normal(0, 0.3, (2, 200))
        found = two_level([Part((runs + noise) * tokens, tokens, 1.0)], draws=300)
        low, high = found.interval
        hit += low <= runs.mean() <= high
        missed += not low <= 0 <= high
        assert "test examples only" in found.note
        assert found.seed_error is None
    assert abs(hit / SIMULATIONS - 0.95) <= slack(0.05) + 0.01
    assert missed / SIMULATIONS > 0.2

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.errors import ConfigError
from pipeline.report.stats import (
    bootstrap_interval,
    compare_pairs,
    detectable_difference,
    holm,
    least_permutation_p,
    non_inferior,
    paired_power,
    pairs_needed,
    power_sentence,
    sign_flip_p,
    summarize,
)


def test_summary_by_hand():
    assert summarize([1.0, 2.0, 6.0]).mean == 3.0
    assert summarize([1.0, 2.0, 6.0]).spread == pytest.approx(math.sqrt(7))
    assert summarize([4.0]).spread is None
    assert summarize([]).n == 0


def test_holm_by_hand():
    # Sorted 0.01 * 4 = 0.04, 0.02 * 3 = 0.06, 0.03 * 2 = 0.06, 0.5 * 1 = 0.5.
    assert holm({"d": 0.5, "a": 0.01, "c": 0.03, "b": 0.02}) == pytest.approx(
        {"d": 0.5, "a": 0.04, "c": 0.06, "b": 0.06}
    )


def test_holm_is_monotone_capped_and_skips_absent_tests():
    # 0.03 * 2 = 0.06 lifts 0.04 * 1; absent and NaN tests do not count.
    assert holm({"a": 0.03, "b": 0.04, "c": None, "d": math.nan}) == {"a": 0.06, "b": 0.06, "c": None, "d": None}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_paired_t_by_hand():
    # Differences 1, 2, 3: mean 2, sd 1, t = 2 sqrt(3) with 2 degrees; p = 1 - t / sqrt(t^2 + 2) for 2 degrees.
    paired = compare_pairs({0: 2.0, 1: 4.0, 2: 6.0}, {0: 1.0, 1: 2.0, 2: 3.0})
    t = 2 * math.sqrt(3)
    assert paired.difference == pytest.approx(2.0)
    assert paired.t_p == pytest.approx(1 - t / math.sqrt(t * t + 2))
    assert paired.interval == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-5)
    assert paired.spread == pytest.approx(1.0)
    # More than the sum of the two quantiles, (4.302653 + 1.060660) / sqrt(3) = 3.097, a common approximation.
    assert paired.detectable == pytest.approx(3.2640, abs=1e-4)
    assert paired.permutation_p == 2 / 2**3
    assert paired.wilcoxon_p is None
    assert paired.bootstrap is None
    assert "not evidence" in paired.note


def test_five_pairs_bring_wilcoxon_and_bootstrap():
    paired = compare_pairs({s: 1.0 + 0.1 * s for s in range(5)}, dict.fromkeys(range(5), 0.0))
    assert paired.wilcoxon_p == pytest.approx(2 / 2**5)
    assert paired.bootstrap is not None
    low, high = paired.bootstrap
    assert 1.0 <= low < paired.difference < high <= 1.4
    assert paired.note == ""


def test_one_seed_says_so_and_gives_no_interval():
    paired = compare_pairs({0: 2.0, 1: 5.0}, {0: 1.5, 2: 1.0})
    assert (paired.n, paired.difference) == (1, 0.5)
    assert (paired.t_p, paired.interval, paired.bootstrap, paired.detectable) == (None, None, None, None)
    assert "nothing can be concluded" in paired.note


def test_nan_pairs_are_left_out_and_no_pair_is_no_difference():
    assert compare_pairs({0: math.nan, 1: 2.0}, {0: 1.0, 1: 1.0}).n == 1
    assert math.isnan(compare_pairs({0: 1.0}, {1: 1.0}).difference)


def test_differences_that_do_not_vary_are_not_a_certainty():
    paired = compare_pairs({0: 0.3, 1: 0.4, 2: 0.5}, {0: 0.2, 1: 0.3, 2: 0.4})
    assert paired.t_p is None
    assert "do not vary" in paired.note


def test_sign_flips_by_hand():
    # Sums of +-1 +-2 +-4 are +-1 +-3 +-5 +-7: of |1 + 2 - 4| = 1 all 8 patterns are as far out, of 1 - 2 - 4 = -5 four.
    assert sign_flip_p([1.0, 2.0, 4.0]) == 2 / 8
    assert sign_flip_p([1.0, -2.0, -4.0]) == 4 / 8
    assert sign_flip_p([1.0, 2.0, -4.0]) == 1.0
    # Equal differences up to rounding are ties.
    assert sign_flip_p([0.3 - 0.2, 0.4 - 0.3, 0.5 - 0.4]) == 2 / 8


def test_beyond_exact_flips_random_ones_are_repeatable_and_close_to_the_t_test():
    values = np.random.default_rng(0).normal(0.4, 1.0, 20)
    assert sign_flip_p(values) == sign_flip_p(values)
    assert sign_flip_p(values) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, abs=0.02)


def test_pairs_that_a_sign_flip_test_needs():
    assert least_permutation_p(5) == 0.0625
    assert (pairs_needed(), pairs_needed(tests=8)) == (6, 9)
    for tests in (1, 8, 19, 20):
        n = pairs_needed(tests=tests)
        assert tests * least_permutation_p(n) < 0.05 <= tests * least_permutation_p(n - 1)


def test_power_against_published_values():
    # R: power.t.test(n = 5, power = 0.8, type = "one.sample") and n = 10: delta 1.682 and 0.996 standard deviations.
    assert detectable_difference(5, 1.0) == pytest.approx(1.682, abs=1e-3)
    assert detectable_difference(10, 2.0) == pytest.approx(2 * 0.996, abs=1e-3)
    assert paired_power(0.0, 1.0, 5) == pytest.approx(0.05)
    assert paired_power(-1.0, 1.0, 5) == paired_power(1.0, 1.0, 5)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 40])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 100])
def test_detectable_difference_has_the_power_it_promises(n: int, alpha: float):
    assert paired_power(detectable_difference(n, 3.0, alpha=alpha), 3.0, n, alpha=alpha) == pytest.approx(0.8)


def test_no_power_without_spread():
    for n, spread in ((1, 1.0), (5, 0.0), (5, math.nan)):
        with pytest.raises(ConfigError, match="no power"):
            detectable_difference(n, spread)


def test_power_is_said_in_a_sentence():
    paired = compare_pairs(dict(enumerate([0.02, 0.01, 0.04, 0.00, 0.03])), dict.fromkeys(range(5), 0.0))
    least = 1.682 * 1.5811
    assert power_sentence(paired) == (
        f"5 seeds with this spread see a true difference of {least:.1f} points with 80 % power (p < 0.05); "
        "the one measured is +2.0."
    )
    assert "p < 0.05 / 8, for 8 comparisons" in power_sentence(paired, tests=8)
    assert "cannot be said (one seed" in power_sentence(compare_pairs({0: 1.0}, {0: 0.5}))


def test_non_inferiority_by_hand():
    # Differences -1, 0, 1 with margin 2: mean 0, error 1 / sqrt(3), lower bound -2.919986 / sqrt(3) = -1.686.
    found = non_inferior(compare_pairs({0: -1.0, 1: 0.0, 2: 1.0}, dict.fromkeys(range(3), 0.0)), 2.0)
    assert found is not None
    assert found.lower == pytest.approx(-2.919986 / math.sqrt(3), abs=1e-5)
    assert found.holds
    tight = non_inferior(compare_pairs({0: -1.0, 1: 0.0, 2: 1.0}, dict.fromkeys(range(3), 0.0)), 1.6)
    assert tight is not None
    assert not tight.holds


def test_non_inferiority_needs_pairs_and_a_margin():
    assert non_inferior(compare_pairs({0: 1.0}, {0: 0.5})) is None
    with pytest.raises(ConfigError, match="margin"):
        non_inferior(compare_pairs({0: 1.0, 1: 2.0}, {0: 0.5, 1: 0.1}), -0.1)


def test_bootstrap_is_repeatable_and_refuses_few_values():
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    with pytest.raises(ConfigError):
        bootstrap_interval(values[:4])

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.report.stats import bootstrap_interval, compare_pairs, holm, summarize


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
    assert paired.detectable == pytest.approx((4.302653 + 1.060660) / math.sqrt(3), abs=1e-5)
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


def test_t_interval_and_test_keep_their_level_under_the_null():
    rng = np.random.default_rng(0)
    false = sum(
        (compare_pairs(dict(enumerate(rng.normal(size=4))), dict.fromkeys(range(4), 0.0)).t_p or 1) < 0.05
        for _ in range(1000)
    )
    assert 30 <= false <= 72  # 50 expected, 3.2 standard deviations


def test_bootstrap_is_repeatable_and_refuses_few_values():
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    with pytest.raises(ConfigError):
        bootstrap_interval(values[:4])

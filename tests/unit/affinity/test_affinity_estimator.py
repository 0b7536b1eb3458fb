"""The corrected estimator against planted truth, and its intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.affinity.estimator import (
    GradientStats,
    corrected_gram,
    split_half_reliability,
)
from pipeline.affinity.resample import bootstrap, weighted_grams
from pipeline.errors import AffinityError

UPPER = np.triu_indices(14, 1)


def test_formulas_against_explicit_pairs(planted: Callable) -> None:
    stats = planted(0, batches=6).stats
    estimate = corrected_gram(stats)
    first, second = stats.batches[0], stats.batches[1]
    pairs = [first[b] @ first[c] for b in range(6) for c in range(6) if b != c]
    assert estimate.gram[0, 0] == pytest.approx(np.mean(pairs))
    assert estimate.gram[0, 1] == pytest.approx(first.mean(0) @ second.mean(0))
    assert estimate.noise[0] == pytest.approx(first.var(axis=0, ddof=1).sum())
    assert estimate.noise_scale[0] == pytest.approx(estimate.noise[0] / estimate.gram[0, 0])
    assert estimate.distance_sq[0, 1] == pytest.approx(
        estimate.gram[0, 0] + estimate.gram[1, 1] - 2 * estimate.gram[0, 1]
    )
    assert estimate.raw_distance_sq[0, 1] == pytest.approx(np.square(first.mean(0) - second.mean(0)).sum())
    assert (np.diag(estimate.distance_sq) == 0).all()


def test_diagonal_noise_and_distance_are_unbiased_where_the_raw_ones_are_not(planted: Callable) -> None:
    errors: dict[str, list[np.ndarray]] = {"gram": [], "raw_gram": [], "distance_sq": [], "noise": []}
    for seed in range(150):
        truth = planted(seed, batches=8, k=128)
        estimate = corrected_gram(truth.stats)
        diagonal = np.diag(truth.gram)
        errors["gram"].append(np.diag(estimate.gram) - diagonal)
        errors["raw_gram"].append(np.diag(estimate.raw_gram) - diagonal)
        errors["noise"].append(estimate.noise - truth.noise)
        distance = diagonal[:, None] + diagonal - 2 * truth.gram
        errors["distance_sq"].append((estimate.distance_sq - distance)[UPPER])
    z = {}
    for name, values in errors.items():
        flat = np.array([value.mean() for value in values])
        z[name] = flat.mean() / (flat.std(ddof=1) / np.sqrt(len(flat)))
    assert all(abs(z[name]) < 3.5 for name in ("gram", "noise", "distance_sq")), z
    assert z["raw_gram"] > 20


@pytest.mark.parametrize("batches", [16, 32])
def test_corrected_distances_separate_groups_better_than_raw_ones(planted: Callable, batches: int) -> None:
    corrected, raw = [], []
    for seed in range(8):
        truth = planted(seed, batches=batches, noise=(3.0, 12.0))
        different = (truth.labels[:, None] != truth.labels)[UPPER]
        estimate = corrected_gram(truth.stats)
        corrected.append(roc_auc_score(different, estimate.distance_sq[UPPER]))
        raw.append(roc_auc_score(different, estimate.raw_distance_sq[UPPER]))
    assert np.mean(corrected) > np.mean(raw) + 0.1
    assert np.mean(corrected) > {16: 0.8, 32: 0.9}[batches]


def test_sums_alone_give_the_same_gram(planted: Callable) -> None:
    stats = planted(1).stats
    sums = GradientStats(stats.datasets, stats.count, stats.sum, stats.sum_sq)
    assert np.allclose(corrected_gram(sums).gram, corrected_gram(stats).gram)


@pytest.mark.parametrize("with_batches", [True, False])
def test_pure_noise_has_no_cosine_and_says_so(with_batches: bool) -> None:
    rng = np.random.default_rng(0)
    rows = {f"noise{i}": rng.standard_normal((16, 256)) for i in range(6)}
    rows["signal"] = rng.standard_normal((16, 256)) + 2.0
    stats = GradientStats.from_batches(rows)
    if not with_batches:
        stats = GradientStats(stats.datasets, stats.count, stats.sum, stats.sum_sq)
    estimate = corrected_gram(stats)
    assert np.isnan(estimate.cosine[:6]).mean() > 0.8
    assert estimate.cosine[6, 6] == 1.0
    assert any("noise" in warning for warning in estimate.warnings)
    assert not any(warning.startswith("signal") for warning in estimate.warnings)
    negative = np.diag(estimate.gram) <= 0
    assert np.isinf(estimate.noise_scale[negative]).all()


def test_cosine_needs_no_correction_off_the_diagonal(planted: Callable) -> None:
    truth = planted(3, batches=400)
    estimate = corrected_gram(truth.stats)
    norm = np.sqrt(np.diag(truth.gram))
    assert np.abs(estimate.cosine - truth.gram / np.outer(norm, norm)).max() < 0.15


def test_weights_of_parameter_groups_add_their_grams() -> None:
    rng = np.random.default_rng(0)
    each = rng.standard_normal((3, 9, 2, 64)) + 0.5  # [D, B, G, K]
    stats = GradientStats(
        datasets=["a", "b", "c"],
        count=np.full(3, 9),
        sum=each.sum((1, 2)),
        sum_sq=np.square(each.sum(2)).sum((1, 2)),
        groups=["lora_A", "lora_B"],
        group_sum=each.sum(1),
        group_sum_sq=np.square(each).sum((1, 3)),
    )
    parts = [corrected_gram(GradientStats.from_batches(dict(zip("abc", each[:, :, g], strict=True)))) for g in range(2)]
    weighted = corrected_gram(stats, weights={"lora_A": 0.5, "lora_B": 2.0})
    assert np.allclose(weighted.gram, 0.5 * parts[0].gram + 2 * parts[1].gram)
    assert np.allclose(weighted.noise, 0.5 * parts[0].noise + 2 * parts[1].noise)
    only_a = corrected_gram(stats, weights={"lora_A": 1.0})
    assert np.allclose(only_a.gram, parts[0].gram)
    with pytest.raises(AffinityError, match="known parameter groups"):
        corrected_gram(stats, weights={"lora_C": 1.0})
    with pytest.raises(AffinityError, match="apart"):
        corrected_gram(GradientStats.from_batches({"a": np.ones((3, 4))}), weights={"x": 1.0})


def test_weighted_grams_leave_out_self_pairs_also_of_repeated_batches() -> None:
    rng = np.random.default_rng(1)
    rows, times = rng.standard_normal((7, 32)), np.array([3.0, 0, 1, 0, 1, 2, 1])
    counts = [4, 3]
    gram = next(weighted_grams(rows, counts, [times]))
    w, first = times[:4], rows[:4]
    pairs = [(w[b] * w[c], first[b] @ first[c]) for b in range(4) for c in range(4) if b != c]
    assert gram[0, 0] == pytest.approx(sum(x * y for x, y in pairs) / sum(x for x, _ in pairs))
    second = times[4:] @ rows[4:] / times[4:].sum()
    assert gram[0, 1] == pytest.approx((w @ first / w.sum()) @ second)
    plain = next(weighted_grams(rows, counts, [np.ones(7)]))
    stats = GradientStats.from_batches({"a": rows[:4], "b": rows[4:]})
    assert np.allclose(plain, corrected_gram(stats).gram)


@pytest.mark.parametrize(
    ("noise", "least", "most", "widest"),
    [((0.2, 1.0), 0.88, 0.985, 0.2), ((1.0, 4.0), 0.93, 1.0, 1.5), ((3.0, 12.0), 0.93, 1.0, 15.0)],
)
def test_intervals_cover_the_truth_and_are_not_endless(
    planted: Callable, noise: tuple[float, float], least: float, most: float, widest: float
) -> None:
    upper = np.triu_indices(6, 1)
    covered, relative_width = [], []
    for seed in range(20):
        truth = planted(seed, batches=12, k=96, sizes=(3, 3), noise=noise)
        intervals = bootstrap(truth.stats, 200, seed)
        diagonal = np.diag(truth.gram)
        distance = (diagonal[:, None] + diagonal - 2 * truth.gram)[upper]
        low, high = intervals.distance_low[upper], intervals.distance_high[upper]
        covered.append((low <= distance) & (distance <= high))
        relative_width.append((high - low).mean() / distance.mean())
        assert np.array_equal(np.isnan(intervals.cosine_low), np.isnan(intervals.cosine_high))
    assert least <= np.mean(covered) <= most
    assert np.mean(relative_width) < widest


def test_resampling_is_deterministic_and_does_not_bias_the_diagonal(planted: Callable) -> None:
    stats = planted(5, batches=12).stats
    intervals = bootstrap(stats, 300, seed=4)
    assert np.array_equal(intervals.gram, bootstrap(stats, 300, seed=4).gram)
    assert not np.array_equal(intervals.gram, bootstrap(stats, 300, seed=5).gram)
    estimate = corrected_gram(stats)
    centre = np.diagonal(intervals.gram, axis1=1, axis2=2).mean(0)
    bias_of_usual_bootstrap = estimate.noise / 12
    assert (np.abs(centre - np.diag(estimate.gram)) < 0.3 * bias_of_usual_bootstrap).mean() > 0.9
    halves = intervals.split_gram.mean((0, 1))
    off_diagonal = ~np.eye(14, dtype=bool)
    assert np.allclose(halves[off_diagonal], estimate.gram[off_diagonal], atol=0.5)


def test_more_micro_batches_are_more_reliable(planted: Callable) -> None:
    few, many = (np.mean([split_half_reliability(planted(s, batches=b).stats) for s in range(5)]) for b in (8, 64))
    assert few < many
    assert many > 0.9
    assert np.isnan(split_half_reliability(planted(0, batches=3).stats))


def test_statistics_that_do_not_suffice_are_refused() -> None:
    rows = {"enough": np.ones((4, 8)), "short": np.ones((1, 8))}
    with pytest.raises(AffinityError, match="short: 1"):
        corrected_gram(GradientStats.from_batches(rows))
    with pytest.raises(AffinityError, match="short: 1"):
        bootstrap(GradientStats.from_batches(rows))
    stats = GradientStats.from_batches({"a": np.ones((4, 8)), "b": np.ones((4, 8))})
    sums = GradientStats(stats.datasets, stats.count, stats.sum, stats.sum_sq)
    with pytest.raises(AffinityError, match="not kept"):
        bootstrap(sums)
    with pytest.raises(AffinityError, match="fit together"):
        GradientStats(["a"], stats.count, stats.sum, stats.sum_sq)
    with pytest.raises(AffinityError, match="NaN"):
        GradientStats.from_batches({"a": np.full((4, 8), np.nan)})

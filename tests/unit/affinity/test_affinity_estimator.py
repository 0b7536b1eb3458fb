"""The corrected estimator against planted truth, and its intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest

from pipeline.affinity.estimator import (
    KEPT_AXES,
    STATS_AXES,
    GradientStats,
    corrected_gram,
)
from pipeline.affinity.resample import (
    _percentiles,
    affordable_resamples,
    bootstrap,
    split_half_reliability,
    weighted_grams,
)
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


@pytest.mark.parametrize(("batches", "least"), [(16, 0.9), (32, 0.98)])
def test_corrected_distances_separate_groups_better_than_raw_ones(
    planted: Callable, batches: int, least: float
) -> None:
    """In the setting of `gst bench affinity-structure`: noise from 1/4 to 4 times the signal in a mean of 16."""
    aucs = []
    for seed in range(20):
        truth = planted(seed, batches=batches, noise=(3.0, 12.0), noise_rank=128)
        estimate = corrected_gram(truth.stats)
        aucs.append([truth.pair_auc(estimate.distance_sq), truth.pair_auc(estimate.raw_distance_sq)])
    corrected, raw = np.mean(aucs, axis=0)
    print(f"pair AUC at B={batches}: corrected {corrected:.3f}, raw {raw:.3f}")
    assert corrected >= least
    assert raw < corrected - 0.15


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
    assert only_a.gram.shape == (3, 3) and stats.weighted({"lora_A": 1.0}).batches is None
    with pytest.raises(AffinityError, match="did you mean 'lora_A'"):
        corrected_gram(stats, weights={"loraA": 1.0})
    for useless in ({"lora_A": -1.0}, {"lora_A": 0.0}, {}, {"lora_A": float("nan")}):
        with pytest.raises(AffinityError, match="zero or more"):
            corrected_gram(stats, weights=useless)
    with pytest.raises(AffinityError, match="apart"):
        corrected_gram(GradientStats.from_batches({"a": np.ones((3, 4))}), weights={"x": 1.0})


def in_groups(seed: int = 0, weights: bool = True) -> GradientStats:
    """Three datasets of 8, 9 and 10 kept micro-batches in two parameter groups."""
    rng = np.random.default_rng(seed)
    rows = [rng.standard_normal((b, 2, 64)) + 0.5 for b in (8, 9, 10)]
    w = [rng.uniform(0.5, 2.0, len(each)) if weights else np.ones(len(each)) for each in rows]
    return GradientStats(
        datasets=["a", "b", "c"],
        count=np.array([8, 9, 10]),
        sum=np.stack([np.tensordot(v, each, 1).sum(0) for v, each in zip(w, rows, strict=True)]),
        sum_sq=np.array([v**2 @ np.square(each.sum(1)).sum(1) for v, each in zip(w, rows, strict=True)]),
        weight=np.array([v.sum() for v in w]),
        weight_sq=np.array([np.square(v).sum() for v in w]),
        batches=[each.sum(1) for each in rows],
        batch_weights=w,
        groups=["lora_A", "lora_B"],
        group_sum=np.stack([np.tensordot(v, each, 1) for v, each in zip(w, rows, strict=True)]),
        group_sum_sq=np.stack([v**2 @ np.square(each).sum(2) for v, each in zip(w, rows, strict=True)]),
        group_batches=rows,
    )


def test_kept_groups_give_weighted_views_what_the_whole_gradient_has() -> None:
    stats = in_groups()
    view = stats.weighted({"lora_A": 0.5, "lora_B": 2.0})
    assert view.batches is not None and view.batch_weights is not None
    rows = zip(view.batch_weights, view.batches, strict=True)
    assert np.allclose(view.sum, np.stack([w @ each for w, each in rows]))
    assert np.allclose(view.half_sum.sum(0), view.sum) and np.allclose(view.half_sum_sq.sum(0), view.sum_sq)
    assert np.allclose(view.half_weight.sum(0), stats.weight)
    assert np.isfinite(split_half_reliability(view))
    one = stats.weighted({"lora_B": 1.0})
    alone = replace(stats, batches=[each[:, 1] for each in stats.group_batches])
    assert np.allclose(bootstrap(one, 20).gram, bootstrap(alone, 20).gram)


def test_some_datasets_keep_all_that_is_known_of_them() -> None:
    whole = in_groups()
    some = whole.select(["c", "a"])
    assert some.groups == whole.groups and some.count.tolist() == [10, 8]
    assert np.array_equal(some.group_batches[0], whole.group_batches[2])
    rows = np.ix_([2, 0], [2, 0])
    for weights in (None, {"lora_A": 1.0}):
        expected = corrected_gram(whole, weights).gram[rows]
        assert np.allclose(corrected_gram(some, weights).gram, expected)
    halves = GradientStats.from_batches({name: np.ones((4, 3)) * i for i, name in enumerate("abc")}).select(["b"])
    assert halves.half_sum.shape == (2, 1, 3) and halves.half_sum[0, 0, 0] == 2


def test_every_array_of_the_statistics_has_axes_and_is_checked_by_them() -> None:
    stats = in_groups()
    arrays = {item.name for item in fields(GradientStats)} - {"datasets", "spec", "cost", "source", "groups"}
    assert arrays == {*STATS_AXES, *KEPT_AXES}
    for name in (*STATS_AXES, *KEPT_AXES):
        value = getattr(stats, name)
        if value is not None:
            wrong = value[:-1] if name in STATS_AXES else [value[0][:-1], *value[1:]]
            with pytest.raises(AffinityError, match=f"fit together\n.*{name}: "):
                replace(stats, **{name: wrong})


def test_weighted_grams_leave_out_self_pairs_also_of_repeated_batches() -> None:
    rng = np.random.default_rng(1)
    rows, times = rng.standard_normal((7, 32)), np.array([3.0, 0, 1, 0, 1, 2, 1])
    gram = weighted_grams([rows[:4], rows[4:]], times[None])[0]
    w, first = times[:4], rows[:4]
    pairs = [(w[b] * w[c], first[b] @ first[c]) for b in range(4) for c in range(4) if b != c]
    assert gram[0, 0] == pytest.approx(sum(x * y for x, y in pairs) / sum(x for x, _ in pairs))
    second = times[4:] @ rows[4:] / times[4:].sum()
    assert gram[0, 1] == pytest.approx((w @ first / w.sum()) @ second)
    plain = weighted_grams([rows[:4], rows[4:]], np.ones((1, 7)))[0]
    stats = GradientStats.from_batches({"a": rows[:4], "b": rows[4:]})
    assert np.allclose(plain, corrected_gram(stats).gram)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_weighted_grams_in_blocks_equal_the_obvious_way(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.affinity.resample.BLOCK_ROWS", 8)
    rng = np.random.default_rng(2)
    counts = [4, 5, 9, 2, 6]
    batches = [rng.standard_normal((b, 40)).astype(dtype) for b in counts]
    weights = rng.integers(1, 4, (6, sum(counts))) * rng.uniform(0.5, 2, (6, sum(counts)))
    for w, gram in zip(weights, weighted_grams(batches, weights), strict=True):
        each = np.split(w, np.cumsum(counts)[:-1])
        total = np.stack([v @ rows for v, rows in zip(each, batches, strict=True)])
        weight, weight_sq = np.array([v.sum() for v in each]), np.array([np.square(v).sum() for v in each])
        expected = total @ total.T / np.outer(weight, weight)
        own = np.array([v**2 @ np.square(rows).sum(1) for v, rows in zip(each, batches, strict=True)])
        np.fill_diagonal(expected, (np.square(total).sum(1) - own) / (weight**2 - weight_sq))
        assert np.allclose(gram, expected, rtol=1e-12 if dtype is np.float64 else 2e-4, atol=1e-12)
        assert np.array_equal(gram, gram.T)


def test_percentiles_leave_out_what_is_not_known() -> None:
    values = np.random.default_rng(3).standard_normal((30, 4, 4))
    values[values > 1] = np.nan
    values[:, 0, 0] = np.nan
    low, high = _percentiles(values, [2.5, 97.5])
    known = np.ones((4, 4), dtype=bool)
    known[0, 0] = False
    expected = np.nanpercentile(values[:, known], [2.5, 97.5], axis=0)
    assert np.allclose([low[known], high[known]], expected) and np.isnan([low[0, 0], high[0, 0]]).all()


def test_resamples_stay_inside_bounds_of_memory_and_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(datasets: int, batches: int) -> GradientStats:
        return GradientStats.from_batches({str(i): np.ones((batches, 2)) for i in range(datasets)})

    assert affordable_resamples(of(14, 16), 200) == 200
    assert affordable_resamples(of(1000, 4), 200) == 20
    assert affordable_resamples(of(1000, 4), 5) == 5
    monkeypatch.setattr("pipeline.affinity.resample.MAX_RESAMPLE_BYTES", 10_000_000)
    assert affordable_resamples(of(500, 4), 200) == 0
    monkeypatch.setattr("pipeline.affinity.resample.MAX_PRODUCTS", 14**2 * 16**2 * 2 - 1)
    assert affordable_resamples(of(14, 16), 200) == 0


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

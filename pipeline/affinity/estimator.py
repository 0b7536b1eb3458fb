"""Corrected estimates of how the datasets' gradients relate.

Per dataset i there are B_i independent micro-batch gradients at one checkpoint, all mapped by one shared random
projection R with E[R'R] = I, so that inner products survive in expectation: s_ib = R g_ib. The plain estimate of a
squared norm, |mean_b s_ib|^2, is too large by (noise variance)/B_i, which makes noisy datasets look far from every
other; the diagonal of the Gram matrix is therefore estimated without the terms of a micro-batch with itself (a
U-statistic; Hoeffding 1948).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import AffinityError, did_you_mean

Array = npt.NDArray[Any]

CLEARLY_POSITIVE = 2.0  # standard errors above zero

# Axes of the arrays of `GradientStats`: D datasets, K sketch, G parameter groups, H the two halves.
STATS_AXES = {
    "count": "D",
    "sum": "DK",
    "sum_sq": "D",
    "weight": "D",
    "weight_sq": "D",
    "half_count": "HD",
    "half_sum": "HDK",
    "half_sum_sq": "HD",
    "half_weight": "HD",
    "half_weight_sq": "HD",
    "group_sum": "DGK",
    "group_sum_sq": "DG",
    "dropped": "D",
    "tokens": "D",
}
# Axes of each dataset's own array in the fields that hold a list of D of them: B kept micro-batches.
KEPT_AXES = {"batches": "BK", "batch_weights": "B", "group_batches": "BGK"}


@dataclass(frozen=True)
class GradientStats:
    """Sketches of every dataset's gradient at one checkpoint, as sums (and one by one, where they were kept).

    `STATS_AXES` and `KEPT_AXES` say which axis of each array is what.
    `pipeline.sketch.accumulator.SketchWindow.export()` has these field names, except `cost` and `source`.

    Attributes:
        count: [D] micro-batches.
        sum: [D, K] sum of the micro-batch sketches s_b times their weights w_b.
        sum_sq: [D] sum of w_b^2 |s_b|^2.
        weight, weight_sq: [D] sums of w_b and of w_b^2; None: all weights are 1.
        batches: per dataset [B_i, K], in an order that does not depend on the number of ranks; None when not kept.
        batch_weights: per dataset [B_i], the weights of `batches`; None: all 1.
        spec: the kind of sketch (`SketchSpec.to_json()`).
        cost: what the probe took: samples, steps, seconds ...
        source: digest of what was probed (recipe, base model, data).
        half_count, half_sum, half_sum_sq, half_weight, half_weight_sq: the same sums for two halves of the
            micro-batches, leading axis 2.
        groups: [G] parameter-group names, with group_sum [D, G, K] and group_sum_sq [D, G].
        group_batches: per dataset [B_i, G, K], `batches` before the sum over groups; None when not kept.
        dropped: [D] micro-batches with non-finite gradients; tokens: [D] answer tokens.
    """

    datasets: list[str]
    count: Array
    sum: Array
    sum_sq: Array
    batches: list[Array] | None = None
    batch_weights: list[Array] | None = None
    weight: Array | None = None
    weight_sq: Array | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    half_count: Array | None = None
    half_sum: Array | None = None
    half_sum_sq: Array | None = None
    half_weight: Array | None = None
    half_weight_sq: Array | None = None
    groups: list[str] | None = None
    group_sum: Array | None = None
    group_sum_sq: Array | None = None
    group_batches: list[Array] | None = None
    dropped: Array | None = None
    tokens: Array | None = None

    def __post_init__(self) -> None:
        d = len(self.datasets)
        if d == 0 or len(set(self.datasets)) != d:
            raise AffinityError("gradient statistics need dataset names, each once", got=self.datasets)
        misfits = self._misfits()
        if misfits:
            raise AffinityError(
                "gradient statistics do not fit together",
                got="; ".join(misfits),
                expected=f"one row for each of {d} datasets, and as many kept micro-batches as counted",
            )
        if not (np.isfinite(self.sum).all() and np.isfinite(self.sum_sq).all()):
            raise AffinityError("gradient statistics hold NaN or infinity", hint="drop non-finite sketches, count them")

    def _misfits(self) -> list[str]:
        """Arrays whose shape contradicts the others, as `name: shape`."""
        sizes = {"D": len(self.datasets), "H": 2, "K": self.sum.shape[-1], "G": len(self.groups or ())}
        found = (
            ["weight and weight_sq: one without the other"] if (self.weight is None) != (self.weight_sq is None) else []
        )
        for name, axes in STATS_AXES.items():
            value = getattr(self, name)
            if value is not None and value.shape != tuple(sizes[axis] for axis in axes):
                found.append(f"{name}: {value.shape}")
        if found:
            return found
        for name, axes in KEPT_AXES.items():
            kept = getattr(self, name)
            wanted = [tuple(int(b) if axis == "B" else sizes[axis] for axis in axes) for b in self.count]
            if kept is not None and [rows.shape for rows in kept] != wanted:
                found.append(f"{name}: {[rows.shape for rows in kept]}")
        return found

    @classmethod
    def from_batches(cls, batches: Mapping[str, Array], spec: dict[str, Any] | None = None) -> GradientStats:
        """Statistics of micro-batch sketches held in memory, dataset -> [B_i, K]; halves take them in turn."""
        rows = [np.asarray(each, dtype=np.float64) for each in batches.values()]
        return cls(
            datasets=list(batches),
            count=np.array([len(each) for each in rows]),
            sum=np.stack([each.sum(0) for each in rows]),
            sum_sq=np.array([np.square(each).sum() for each in rows]),
            batches=rows,
            spec=dict(spec or {}),
            **_halves(rows, None),
        )

    @property
    def weights(self) -> tuple[Array, Array]:
        """[D] sum of the micro-batches' weights, and of their squares."""
        if self.weight is None or self.weight_sq is None:
            return self.count.astype(np.float64), self.count.astype(np.float64)
        return self.weight, self.weight_sq

    @property
    def effective_count(self) -> Array:
        """[D] how many micro-batches of equal weight would average out as much noise (Kish 1965)."""
        weight, weight_sq = self.weights
        return weight**2 / weight_sq

    def select(self, datasets: list[str]) -> GradientStats:
        """The statistics of some datasets only, in that order."""
        rows = [self.datasets.index(name) for name in datasets]
        chosen: dict[str, Any] = {}
        for name, axes in STATS_AXES.items():
            value = getattr(self, name)
            chosen[name] = None if value is None else np.take(value, rows, axes.index("D"))
        for name in KEPT_AXES:
            kept = getattr(self, name)
            chosen[name] = None if kept is None else [kept[row] for row in rows]
        return replace(self, datasets=list(datasets), **chosen)

    def weighted(self, weights: Mapping[str, float]) -> GradientStats:
        """Statistics in which parameter group g counts `weights[g]` times (0 or not named: it is left out).

        Inner products become sum_g w_g <s_ig, s_jg>: the groups' sketches are put side by side, times sqrt(w_g).
        Without `group_batches` these are sums only, and there is nothing to resample.

        Raises:
            AffinityError: groups were not kept apart, or a weight is negative or of an unknown group.
        """
        if self.groups is None or self.group_sum is None or self.group_sum_sq is None:
            raise AffinityError("these statistics do not keep parameter groups apart", hint="probe with group_by: kind")
        _require_group_weights(weights, self.groups)
        w = np.array([weights.get(name, 0.0) for name in self.groups])
        used = np.flatnonzero(w)
        scale = np.sqrt(w[used])[:, None]

        def side_by_side(rows: Array) -> Array:
            return (rows[:, used] * scale.astype(rows.dtype)).reshape(len(rows), -1)

        batches = None if self.group_batches is None else [side_by_side(rows) for rows in self.group_batches]
        halves = {
            "half_count": None,
            "half_sum": None,
            "half_sum_sq": None,
            "half_weight": None,
            "half_weight_sq": None,
        }
        return replace(
            self,
            sum=side_by_side(self.group_sum),
            sum_sq=self.group_sum_sq @ w,
            batches=batches,
            batch_weights=None if batches is None else self.batch_weights,
            **(halves if batches is None else _halves(batches, self.batch_weights)),
            groups=None,
            group_sum=None,
            group_sum_sq=None,
            group_batches=None,
        )


def _require_group_weights(weights: Mapping[str, float], groups: Sequence[str]) -> None:
    unknown = sorted(set(weights) - set(groups))
    if unknown:
        raise AffinityError(
            "unknown parameter groups",
            got=", ".join(unknown),
            expected=", ".join(groups),
            hint=did_you_mean(unknown[0], groups),
        )
    if any(not 0 <= weight < np.inf for weight in weights.values()) or not any(weights.values()):
        raise AffinityError("weights of parameter groups must be zero or more, and not all zero", got=dict(weights))


def _halves(rows: Sequence[Array], weights: Sequence[Array] | None) -> dict[str, Any]:
    """The `half_...` sums of kept micro-batches, which go to the two halves in turn."""
    every = weights if weights is not None else [np.ones(len(each)) for each in rows]
    pairs = [[(each[half::2], w[half::2]) for each, w in zip(rows, every, strict=True)] for half in (0, 1)]
    return {
        "half_count": np.array([[len(w) for _, w in half] for half in pairs]),
        "half_sum": np.stack([np.stack([w @ each for each, w in half]) for half in pairs]),
        "half_sum_sq": np.array([[w**2 @ np.square(each).sum(1) for each, w in half] for half in pairs]),
        "half_weight": np.array([[w.sum() for _, w in half] for half in pairs]),
        "half_weight_sq": np.array([[np.square(w).sum() for _, w in half] for half in pairs]),
    }


@dataclass(frozen=True)
class GramEstimate:
    """What is known of the datasets' gradients at one checkpoint.

    Attributes:
        gram: [D, D] unbiased inner products of the mean gradients; a diagonal entry may be negative.
        raw_gram: [D, D] inner products of the plain means, diagonal biased by noise / B.
        noise: [D] S_i, the summed variance of one micro-batch gradient.
        noise_scale: [D] S_i / G_ii in micro-batches (McCandlish et al. 2018); infinity where G_ii <= 0.
        distance_sq: [D, D] G_ii + G_jj - 2 G_ij, unbiased, so it may be negative; 0 on the diagonal.
        raw_distance_sq: [D, D] squared distance of the plain means.
        cosine: [D, D]; NaN in the row and column of a dataset whose diagonal is not clearly positive.
        warnings: plain sentences.
    """

    datasets: list[str]
    gram: Array
    raw_gram: Array
    noise: Array
    noise_scale: Array
    distance_sq: Array
    raw_distance_sq: Array
    cosine: Array
    warnings: tuple[str, ...] = ()


def corrected_gram(stats: GradientStats, weights: Mapping[str, float] | None = None) -> GramEstimate:
    """Unbiased Gram matrix of the datasets' mean gradients, with what follows from it.

    Off-diagonal G_ij = s_i . s_j with s_i the weighted mean over micro-batches (unbiased: datasets are independent).
    Diagonal G_ii = (|sum_b w_b s_ib|^2 - sum_b w_b^2 |s_ib|^2) / ((sum_b w_b)^2 - sum_b w_b^2); noise
    S_i = sum_b w_b^2 |s_ib|^2 / sum_b w_b^2 - G_ii. With all weights 1 these are
    (B^2 |s_i|^2 - sum_b |s_ib|^2) / (B (B - 1)) and sum_b |s_ib - s_i|^2 / (B - 1).

    Args:
        weights: parameter group -> weight; see `GradientStats.weighted`. None: the whole gradient.

    Raises:
        AffinityError: a dataset has fewer than two micro-batches.
    """
    if weights is not None:
        stats = stats.weighted(weights)
    _require_two(stats)
    weight, weight_sq = stats.weights
    gram = gram_of_sums(stats.sum, stats.sum_sq, weight, weight_sq)
    diagonal = np.diag(gram).copy()
    noise = stats.sum_sq / weight_sq - diagonal
    raw = gram.copy()
    np.fill_diagonal(raw, (diagonal * (weight**2 - weight_sq) + stats.sum_sq) / weight**2)
    clear = diagonal > CLEARLY_POSITIVE * _standard_error(stats, noise)
    cosine = np.full_like(gram, np.nan)
    cosine[np.ix_(clear, clear)] = cosine_of(gram[np.ix_(clear, clear)])
    distance = distance_of(gram)
    return GramEstimate(
        datasets=list(stats.datasets),
        gram=gram,
        raw_gram=raw,
        noise=noise,
        noise_scale=np.divide(noise, diagonal, out=np.full_like(noise, np.inf), where=diagonal > 0),
        distance_sq=distance,
        raw_distance_sq=distance_of(raw),
        cosine=cosine,
        warnings=_warnings(stats, diagonal, clear, distance),
    )


def gram_of_sums(total: Array, total_sq: Array, weight: Array, weight_sq: Array, *, fast: bool = False) -> Array:
    """[D, D] corrected Gram matrix of sums [D, K], by the formulas of `corrected_gram`.

    Args:
        total, total_sq, weight, weight_sq: as `GradientStats.sum`, `sum_sq` and `weights`.
        fast: multiply in float32, which is off by about 1e-7 of the product of two summed sketches' norms; otherwise
            float64, because the diagonal is a small difference where noise is large.
    """
    if fast:
        largest = float(max(total.max(), -total.min())) or 1.0  # squares must neither overflow nor vanish
        narrow = np.divide(total, largest, out=np.empty(total.shape, dtype=np.float32), casting="same_kind")
        inner = (narrow @ narrow.T).astype(np.float64) * largest**2
    else:
        wide = np.asarray(total, dtype=np.float64)
        inner = wide @ wide.T
    diagonal = (np.diag(inner) - total_sq) / (weight**2 - weight_sq)
    inner /= np.outer(weight, weight)
    np.fill_diagonal(inner, diagonal)
    return inner


def distance_of(gram: Array) -> Array:
    """Squared distances G_ii + G_jj - 2 G_ij of one or many Gram matrices, [..., D, D]; exactly 0 on the diagonal."""
    diagonal = np.diagonal(gram, axis1=-2, axis2=-1)
    distance = diagonal[..., :, None] + diagonal[..., None, :] - 2 * gram
    every = np.arange(gram.shape[-1])
    distance[..., every, every] = 0.0
    return distance


def cosine_of(gram: Array) -> Array:
    """Cosines of one or many Gram matrices, [..., D, D]; NaN where a diagonal entry is not positive."""
    diagonal = np.diagonal(gram, axis1=-2, axis2=-1)
    norm = np.sqrt(np.where(diagonal > 0, diagonal, np.nan))
    cosine = np.clip(gram / (norm[..., :, None] * norm[..., None, :]), -1.0, 1.0)
    every = np.arange(gram.shape[-1])
    cosine[..., every, every] = np.where(np.isnan(norm), np.nan, 1.0)
    return cosine


def _require_two(stats: GradientStats) -> None:
    few = {name: int(n) for name, n in zip(stats.datasets, stats.count, strict=True) if n < 2}
    if few:
        raise AffinityError(
            "too few micro-batches: noise cannot be told from signal",
            got=", ".join(f"{name}: {n}" for name, n in few.items()),
            expected="at least 2 of every dataset, better 16",
            hint="raise probe.batches_per_dataset, or leave these datasets out",
        )


def _standard_error(stats: GradientStats, noise: Array) -> Array:
    """[D] standard error of the corrected diagonal.

    With kept micro-batches the jackknife over them (Efron 1982). Without, S_i / (2 B_i) with B_i the effective count,
    so that "two standard errors above zero" means that the signal exceeds what noise is left in the mean.
    """
    if stats.batches is None:
        return noise / (2 * stats.effective_count)
    errors = []
    for rows, w in zip(stats.batches, stats.batch_weights or [np.ones(b) for b in stats.count], strict=True):
        b = len(rows)
        if b < 3:
            errors.append(np.inf)
            continue
        sq, w_sq = w**2 * np.square(rows).sum(1), w**2
        others = w @ rows - w[:, None] * rows  # [B, K] weighted sum of all but one micro-batch
        left_out = np.square(others).sum(1) - (sq.sum() - sq)
        left_out /= (w.sum() - w) ** 2 - (w_sq.sum() - w_sq)
        errors.append(np.sqrt((b - 1) / b * np.square(left_out - left_out.mean()).sum()))
    return np.array(errors)


def _warnings(stats: GradientStats, diagonal: Array, clear: Array, distance: Array) -> tuple[str, ...]:
    found = []
    for name, value, is_clear, b in zip(stats.datasets, diagonal, clear, stats.count, strict=True):
        if value <= 0:
            found.append(f"{name}: the squared gradient norm is estimated as {value:.3g} <= 0 from {b} micro-batches")
        elif not is_clear:
            found.append(f"{name}: {b} micro-batches do not tell the gradient from noise; no cosine is given")
    upper = distance[np.triu_indices(len(distance), 1)]
    if (upper < 0).any():
        found.append(f"{int((upper < 0).sum())} of {upper.size} squared distances are negative; used as 0")
    if stats.dropped is not None and stats.dropped.any():
        lost = ", ".join(f"{name}: {n}" for name, n in zip(stats.datasets, stats.dropped, strict=True) if n)
        found.append(f"micro-batches with non-finite gradients were left out ({lost})")
    return tuple(found)

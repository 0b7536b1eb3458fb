"""Corrected estimates of how the datasets' gradients relate.

Per dataset i there are B_i independent micro-batch gradients at one checkpoint, all mapped by one shared random
projection R with E[R'R] = I, so that inner products survive in expectation: s_ib = R g_ib. The plain estimate of a
squared norm, |mean_b s_ib|^2, is too large by (noise variance)/B_i, which makes noisy datasets look far from every
other; the diagonal of the Gram matrix is therefore estimated without the terms of a micro-batch with itself (a
U-statistic; Hoeffding 1948).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import AffinityError

Array = npt.NDArray[Any]

CLEARLY_POSITIVE = 2.0  # standard errors above zero


@dataclass(frozen=True)
class GradientStats:
    """Sketches of every dataset's gradient at one checkpoint, as sums (and one by one, where they were kept).

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
    dropped: Array | None = None
    tokens: Array | None = None

    def __post_init__(self) -> None:
        d = len(self.datasets)
        if d == 0 or len(set(self.datasets)) != d:
            raise AffinityError("gradient statistics need dataset names, each once", got=self.datasets)
        fits = (
            self.count.shape == (d,)
            and self.sum.ndim == 2
            and len(self.sum) == d
            and self.sum_sq.shape == (d,)
            and (self.batches is None or [len(rows) for rows in self.batches] == self.count.tolist())
            and (self.batch_weights is None or [len(w) for w in self.batch_weights] == self.count.tolist())
            and (self.weight is None) == (self.weight_sq is None)
        )
        if not fits:
            raise AffinityError(
                "gradient statistics do not fit together",
                got=f"count {self.count.shape}, sum {self.sum.shape}, sum_sq {self.sum_sq.shape}",
                expected=f"one row for each of {d} datasets, and as many kept micro-batches as counted",
            )
        if not (np.isfinite(self.sum).all() and np.isfinite(self.sum_sq).all()):
            raise AffinityError("gradient statistics hold NaN or infinity", hint="drop non-finite sketches, count them")

    @classmethod
    def from_batches(cls, batches: Mapping[str, Array], spec: dict[str, Any] | None = None) -> GradientStats:
        """Statistics of micro-batch sketches held in memory, dataset -> [B_i, K]; halves take them in turn."""
        rows = [np.asarray(each, dtype=np.float64) for each in batches.values()]
        halves = [[each[half::2] for each in rows] for half in (0, 1)]
        return cls(
            datasets=list(batches),
            count=np.array([len(each) for each in rows]),
            sum=np.stack([each.sum(0) for each in rows]),
            sum_sq=np.array([np.square(each).sum() for each in rows]),
            batches=rows,
            spec=dict(spec or {}),
            half_count=np.array([[len(each) for each in half] for half in halves]),
            half_sum=np.stack([np.stack([each.sum(0) for each in half]) for half in halves]),
            half_sum_sq=np.array([[np.square(each).sum() for each in half] for half in halves]),
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
        """The statistics of some datasets only, without parameter groups."""
        rows = [self.datasets.index(name) for name in datasets]

        def of_each(value: Array | None, axis: int = 0) -> Any:
            return None if value is None else np.take(value, rows, axis)

        def kept(value: list[Array] | None) -> list[Array] | None:
            return None if value is None else [value[row] for row in rows]

        return GradientStats(
            datasets=datasets,
            count=of_each(self.count),
            sum=of_each(self.sum),
            sum_sq=of_each(self.sum_sq),
            weight=of_each(self.weight),
            weight_sq=of_each(self.weight_sq),
            batches=kept(self.batches),
            batch_weights=kept(self.batch_weights),
            spec=self.spec,
            cost=self.cost,
            source=self.source,
            dropped=of_each(self.dropped),
            half_count=of_each(self.half_count, 1),
            half_sum=of_each(self.half_sum, 1),
            half_sum_sq=of_each(self.half_sum_sq, 1),
            half_weight=of_each(self.half_weight, 1),
            half_weight_sq=of_each(self.half_weight_sq, 1),
        )

    def weighted(self, weights: Mapping[str, float]) -> GradientStats:
        """Statistics in which parameter group g counts `weights[g]` times (0 leaves it out); sums only.

        Inner products become sum_g w_g <s_ig, s_jg>: the groups' sketches are put side by side, times sqrt(w_g).

        Raises:
            AffinityError: groups were not kept apart, or a weight is negative or of an unknown group.
        """
        if self.groups is None or self.group_sum is None or self.group_sum_sq is None:
            raise AffinityError("these statistics do not keep parameter groups apart", hint="probe with group_by: kind")
        unknown = sorted(set(weights) - set(self.groups))
        if unknown or any(not weight >= 0 for weight in weights.values()):
            raise AffinityError(
                "weights must be zero or more, of known parameter groups",
                got=dict(weights),
                expected=", ".join(self.groups),
            )
        w = np.array([weights.get(name, 0.0) for name in self.groups])
        side_by_side = self.group_sum * np.sqrt(w)[:, None]
        return replace(
            self,
            sum=side_by_side.reshape(len(self.datasets), -1),
            sum_sq=self.group_sum_sq @ w,
            batches=None,
            batch_weights=None,
            half_count=None,
            half_sum=None,
            half_sum_sq=None,
            half_weight=None,
            half_weight_sq=None,
            groups=None,
            group_sum=None,
            group_sum_sq=None,
        )


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
    mean = stats.sum / weight[:, None]
    raw = mean @ mean.T
    diagonal = (weight**2 * np.diag(raw) - stats.sum_sq) / (weight**2 - weight_sq)
    noise = stats.sum_sq / weight_sq - diagonal
    gram = raw.copy()
    np.fill_diagonal(gram, diagonal)
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


def split_half_reliability(stats: GradientStats) -> float:
    """How well the pairwise distances of one half of the micro-batches predict the other half's, stepped up to all.

    Pearson correlation r over pairs, then 2r / (1 + r) (Spearman-Brown). NaN without halves, with fewer than three
    pairs, or when a half holds fewer than two micro-batches of some dataset.
    """
    if stats.half_count is None or stats.half_sum is None or stats.half_sum_sq is None:
        return float("nan")
    if stats.half_count.min() < 2 or len(stats.datasets) < 3:
        return float("nan")
    upper = np.triu_indices(len(stats.datasets), 1)
    distances = []
    for number, (count, total, total_sq) in enumerate(
        zip(stats.half_count, stats.half_sum, stats.half_sum_sq, strict=True)
    ):
        half = GradientStats(
            datasets=stats.datasets,
            count=count,
            sum=total,
            sum_sq=total_sq,
            weight=None if stats.half_weight is None else stats.half_weight[number],
            weight_sq=None if stats.half_weight_sq is None else stats.half_weight_sq[number],
        )
        distances.append(corrected_gram(half).distance_sq[upper])
    r = float(np.corrcoef(distances[0], distances[1])[0, 1])
    return 2 * r / (1 + r) if r > -1 else float("nan")

"""Groups of datasets from an affinity estimate, with the evidence for them - or the answer that there are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np

from pipeline.affinity.estimator import Array, GramEstimate, cosine_of, distance_of
from pipeline.affinity.indices import adjusted_rand_index, mean_silhouette
from pipeline.affinity.partitions import (
    Groups,
    Order,
    domain_partition,
    explicit_partition,
    order_groups,
    random_partition,
    reorder_groups,
)
from pipeline.affinity.resample import Bootstrap
from pipeline.affinity.spectral import Labels, spectrum_of
from pipeline.errors import AffinityError

__all__ = [
    "Grouping",
    "group_datasets",
    "similarity_of",
    "domain_partition",
    "explicit_partition",
    "order_groups",
    "random_partition",
    "reorder_groups",
]

Metric = Literal["distance", "cosine"]
AUTO_SIZES = (2, 3, 4, 5)
STABILITY_TIE = 0.02  # stabilities closer than this are a tie, which the silhouette breaks
MIN_EFFECT = 0.05  # smallest gap, as a share of the median distance, that counts as structure
MIN_SIMILARITY = 1e-9  # keeps the graph connected where exp() underflows
GAP_TAIL = 0.05  # lower tail of the gap's interval


@dataclass(frozen=True)
class Grouping:
    """Groups in the order in which they enter training, and what speaks for them.

    Attributes:
        groups: dataset names.
        order, metric, seed: how they were made.
        source: `gradient`, `random`, `domain` or `explicit`.
        verdict: one sentence for the user.
        stability: K -> mean adjusted Rand index between the partition and those of the resamples.
        silhouette: K -> mean silhouette of the partition, with 1 - similarity as dissimilarity.
        eigengap: K -> gap after the K-th eigenvalue of the normalised Laplacian.
        co_assignment: [D][D] share of the resamples that put two datasets into one group, at this K (where `auto`
            answered one group: at the best K it rejected; the same holds for the gap).
        gap: mean(between) - mean(within) dissimilarity over the median, measured on micro-batches that the groups were
            not made from; gap_low, gap_high: its 90 % interval. None without resamples or with one group.
    """

    groups: Groups
    order: str = "explicit"
    metric: str | None = None
    source: str = "gradient"
    verdict: str = ""
    seed: int = 0
    stability: dict[int, float] = field(default_factory=dict)
    silhouette: dict[int, float] = field(default_factory=dict)
    eigengap: dict[int, float] = field(default_factory=dict)
    co_assignment: list[list[float]] | None = None
    gap: float | None = None
    gap_low: float | None = None
    gap_high: float | None = None

    @property
    def k(self) -> int:
        return len(self.groups)

    def to_json(self) -> dict[str, Any]:
        value = {item.name: getattr(self, item.name) for item in fields(self)}
        for name in ("stability", "silhouette", "eigengap"):
            value[name] = {str(k): number for k, number in value[name].items()}
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Grouping:
        by_k = {name: {int(k): v for k, v in value[name].items()} for name in ("stability", "silhouette", "eigengap")}
        return cls(**{**value, **by_k})


def group_datasets(
    estimate: GramEstimate,
    intervals: Bootstrap | None = None,
    *,
    metric: Metric = "distance",
    groups: int | Literal["auto"] = "auto",
    order: Order = "progressive",
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
    min_effect: float = MIN_EFFECT,
    why_no_resamples: str = "there are no resampled micro-batches",
) -> Grouping:
    """Spectral groups of the datasets.

    `auto` takes the K in 2..5 whose partition the resamples repeat best (silhouette breaks ties), and then asks
    whether it is real: on micro-batches it was not made from, the groups must be further apart than they are wide, by
    at least `min_effect` of the median distance. If not, the answer is one group, which trains as Mix-all.

    Args:
        intervals: `bootstrap(stats, ...)`; needed for `auto`, and for the evidence at a fixed K.
        weights: sampling weights for the order of groups; equal when None.
        seed: of a random order.
        why_no_resamples: said in the verdict where there are no `intervals`.

    Raises:
        AffinityError: more groups than datasets, `auto` without resamples, or a cosine that is not defined.
    """
    d = len(estimate.datasets)
    similarity = similarity_of(estimate, metric)
    candidates = _candidates(groups, d, why_no_resamples if intervals is None else None)
    spectrum = spectrum_of(similarity, max(*AUTO_SIZES, *candidates) + 1)
    partitions = {k: spectrum.labels(k) for k in candidates}
    resampled = _resampled_labels(intervals, metric, candidates) if intervals is not None else {}
    stability = {
        k: float(np.mean([adjusted_rand_index(partitions[k], each) for each in labels]))
        for k, labels in resampled.items()
    }
    silhouette = {
        k: score for k, labels in partitions.items() if (score := _silhouette(similarity, labels)) is not None
    }
    best = candidates[0] if groups != "auto" else _most_stable(stability, silhouette)
    gap = _held_out_gap(intervals, metric, best) if intervals is not None and 1 < best < d else None
    rejected = groups == "auto" and (gap is None or not _is_structure(gap, min_effect))
    labels = np.zeros(d, dtype=np.int64) if rejected else partitions[best]
    if intervals is not None:
        why_no_resamples = "every dataset is a group of its own"  # the only case of no gap at a fixed K
    found = [[estimate.datasets[i] for i in np.flatnonzero(labels == label)] for label in np.unique(labels)]
    return Grouping(
        groups=order_groups(estimate.gram, estimate.datasets, found, order, weights=weights, seed=seed),
        order=order,
        metric=metric,
        verdict=_verdict(best, len(found), stability.get(best), gap, min_effect, groups != "auto", why_no_resamples),
        seed=seed,
        stability=stability,
        silhouette=silhouette,
        eigengap={k: gap for k, gap in spectrum.eigengap.items() if k <= max(AUTO_SIZES)},
        co_assignment=_co_assignment(resampled[best]).tolist() if best in resampled else None,
        **_interval(gap),
    )


def similarity_of(estimate: GramEstimate, metric: str) -> Array:
    """[D, D] similarities in 0..1: exp(-D2 / median off-diagonal D2), or (1 + cosine) / 2.

    Raises:
        AffinityError: unknown metric, or a dataset whose cosine is not defined.
    """
    if metric not in get_args(Metric):
        raise AffinityError("unknown affinity metric", got=metric, expected=", ".join(get_args(Metric)))
    unclear = np.isnan(np.diag(estimate.cosine))
    if metric == "cosine" and unclear.any():
        names = [name for name, is_unclear in zip(estimate.datasets, unclear, strict=True) if is_unclear]
        raise AffinityError(
            "the direction of some datasets' gradients is lost in noise, so they have no cosine",
            got=", ".join(names),
            hint="probe more micro-batches (probe.batches_per_dataset), or use metric: distance",
        )
    return _similarity(estimate.gram, metric)


def _candidates(groups: int | Literal["auto"], d: int, why_no_resamples: str | None) -> list[int]:
    """The numbers of groups to try."""
    if groups == "auto":
        if why_no_resamples is not None:
            raise AffinityError(
                "`groups: auto` needs resamples to tell structure from noise",
                got=why_no_resamples,
                hint="probe with kept micro-batches, or name the number of groups",
            )
        return [k for k in AUTO_SIZES if k < d]
    if not 1 <= groups <= d:
        raise AffinityError("the number of groups does not fit", got=groups, expected=f"1 to {d}, or auto")
    return [groups]


def _dissimilarity(gram: Array, metric: str) -> Array:
    """[..., D, D] corrected squared distance (negative kept: averages stay unbiased) or 1 - cosine (undefined: 1)."""
    if metric == "distance":
        return distance_of(gram)
    return 1.0 - np.nan_to_num(cosine_of(gram), nan=0.0)


def _similarity(gram: Array, metric: str) -> Array:
    """[D, D] of one Gram matrix."""
    dissimilarity = _dissimilarity(gram, metric)
    if metric == "cosine":
        similarity = 1.0 - dissimilarity / 2
    else:
        distance = np.clip(dissimilarity, 0.0, None)
        scale = _median(distance) or _median(distance[distance > 0]) or 1.0
        similarity = np.maximum(np.exp(-distance / scale), MIN_SIMILARITY)
    np.fill_diagonal(similarity, 1.0)
    return similarity


def _median(dissimilarity: Array) -> float:
    """Of all pairs of different datasets [D, D], or of the numbers given [N]; 0 when there are none."""
    values = dissimilarity if dissimilarity.ndim == 1 else dissimilarity[np.triu_indices(len(dissimilarity), 1)]
    return float(np.median(values)) if values.size else 0.0


def _resampled_labels(intervals: Bootstrap, metric: Metric, sizes: list[int]) -> dict[int, list[Labels]]:
    """K -> labels [D] of every resample."""
    found: dict[int, list[Labels]] = {k: [] for k in sizes}
    for gram in intervals.gram if sizes else ():
        spectrum = spectrum_of(_similarity(gram, metric), max(sizes))
        for k in sizes:
            found[k].append(spectrum.labels(k))
    return found


def _co_assignment(resampled: list[Labels]) -> Array:
    """[D, D] share of the resamples that put two datasets into one group."""
    stacked = np.stack(resampled)
    together = np.zeros((stacked.shape[1], stacked.shape[1]))
    for label in np.unique(stacked):
        member = (stacked == label).astype(np.float64)
        together += member.T @ member
    return together / len(stacked)


def _silhouette(similarity: Array, labels: Labels) -> float | None:
    """Mean silhouette with 1 - similarity as dissimilarity; None where it is not defined (1 or D groups)."""
    if not 1 < len(np.unique(labels)) < len(labels):
        return None
    return mean_silhouette(1.0 - similarity, labels)


def _most_stable(stability: dict[int, float], silhouette: dict[int, float]) -> int:
    """The most stable K; among ties the best silhouette; 1 when there is no candidate (two datasets)."""
    if not stability:
        return 1
    best = max(stability.values())
    return max(
        (k for k, value in stability.items() if value >= best - STABILITY_TIE), key=lambda k: silhouette.get(k, -1.0)
    )


def _held_out_gap(intervals: Bootstrap, metric: Metric, k: int) -> Array:
    """[R] gap of the groups made on one half of the micro-batches, measured on the other half, both ways averaged.

    On the micro-batches that made them, groups are apart by construction, also in pure noise; on others they are not.
    """
    gaps = []
    for first, second in intervals.split_gram:
        both = [
            _gap(_dissimilarity(measured, metric), spectrum_of(_similarity(made, metric), k).labels(k))
            for made, measured in ((first, second), (second, first))
        ]
        gaps.append(np.mean(both))
    scale = _median(np.median(_dissimilarity(intervals.gram, metric), axis=0))
    return np.array(gaps) / scale if scale > 0 else np.zeros(len(gaps))


def _gap(dissimilarity: Array, labels: Labels) -> float:
    """mean(between) - mean(within) over pairs; 0 where one of the two has no pair."""
    together = labels[:, None] == labels
    between = dissimilarity[~together]
    np.fill_diagonal(together, False)
    within = dissimilarity[together]
    return float(between.mean() - within.mean()) if between.size and within.size else 0.0


def _interval(gap: Array | None) -> dict[str, Any]:
    """The fields of `Grouping` that tell of the resampled gap."""
    if gap is None:
        return {}
    low, high = np.quantile(gap, [GAP_TAIL, 1 - GAP_TAIL])
    return {"gap": float(gap.mean()), "gap_low": float(low), "gap_high": float(high)}


def _is_structure(gap: Array, min_effect: float) -> bool:
    return bool(np.quantile(gap, GAP_TAIL) > 0 and gap.mean() >= min_effect)


def _verdict(
    k: int,
    found: int,
    stability: float | None,
    gap: Array | None,
    min_effect: float,
    chosen: bool,
    why_no_resamples: str,
) -> str:
    """One sentence; `chosen` when the user named the number of groups `k`, of which `found` could be made."""
    if k == 1:
        return "one group was asked for" if chosen else "too few datasets for groups"
    asked = f"{k} groups, as asked"
    if found < k and chosen:
        asked = f"{found} of {k} groups, as the datasets cannot be told apart any further"
    if gap is None or stability is None:
        return f"{asked}; {why_no_resamples}, so there is no evidence for or against them"
    low, high = np.quantile(gap, [GAP_TAIL, 1 - GAP_TAIL])
    numbers = f"held-out gap {gap.mean():.2f} of the median, 90 % interval {low:.2f} to {high:.2f}"
    if _is_structure(gap, min_effect):
        return f"{asked if chosen else f'{k} groups'}; {numbers}; resamples agree with them to {stability:.2f}"
    if chosen:
        return f"{asked}, but no structure was found: {numbers}; Mix-all is as good"
    return f"no structure: the best {k} groups are not apart on data that did not make them ({numbers}); use Mix-all"

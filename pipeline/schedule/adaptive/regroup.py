"""Groups that have not entered yet, made anew from the sketches of training, when these speak clearly for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from pipeline.affinity.estimator import GramEstimate, cosine_of, distance_of
from pipeline.affinity.grouping import group_datasets
from pipeline.affinity.partitions import Groups
from pipeline.config.schedule import RegroupConfig
from pipeline.schedule.shares import Array

KEPT = 32  # windows; older ones speak of a model that is gone


class WindowEvidence:
    """The corrected Gram matrices of the last windows. Each is unbiased, at its own moment of the training.

    Windows differ in which datasets they saw often enough.
    """

    def __init__(self) -> None:
        self._windows: list[dict[str, Any]] = []

    def add(self, estimate: GramEstimate) -> None:
        self._windows.append({"datasets": list(estimate.datasets), "gram": estimate.gram.tolist()})
        del self._windows[:-KEPT]

    def grams(self, names: Sequence[str]) -> Array:
        """[W, D, D] of every window; NaN for a pair that it did not see."""
        found = np.full((len(self._windows), len(names), len(names)), np.nan)
        for matrix, window in zip(found, self._windows, strict=True):
            row = {name: i for i, name in enumerate(window["datasets"])}
            mine = [i for i, name in enumerate(names) if name in row]
            theirs = [row[names[i]] for i in mine]
            matrix[np.ix_(mine, mine)] = np.array(window["gram"])[np.ix_(theirs, theirs)]
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"windows": [dict(window) for window in self._windows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._windows = [dict(window) for window in state["windows"]]


def regroup(
    groups: Groups, pool: Mapping[str, float], evidence: WindowEvidence, config: RegroupConfig
) -> tuple[Groups, dict[str, Any]]:
    """The groups still to come, best one for the pool first; as they were unless the evidence for others is clear.

    As many groups of the same datasets. The judge is the gap: mean squared distance between groups less that inside
    them. On the windows that made them groups are apart by construction, so each window judges what all others
    suggest; over windows, the lower confidence bound (Student) of new gap less old gap must exceed `config.margin`
    median distances.

    Args:
        pool: dataset -> share of what has entered; it is not touched.
    """
    names = sorted(name for group in groups for name in group)
    grams = evidence.grams(names)
    seen = int(np.isfinite(grams).sum(0).min()) if names else 0
    if not 1 < len(groups) < len(names) or seen < config.min_windows:
        return groups, {"regrouped": False, "windows_of_each_pair": seen}
    mean = np.nanmean(grams, axis=0)
    new = _partition(mean, names, len(groups))
    if sorted(map(sorted, new)) == sorted(map(sorted, groups)):
        return groups, {"regrouped": False, "windows_of_each_pair": seen, "same": True}
    better = _gains(grams, names, groups)
    needed = config.margin * max(float(np.median(distance_of(mean)[np.triu_indices(len(names), 1)])), 0.0)
    lower = _lower_bound(better, config.confidence) if len(better) >= config.min_windows else None
    numbers = {"gap_gained": float(better.mean()) if better.size else None, "lower_bound": lower, "needed": needed}
    if lower is None or lower <= needed:
        return groups, {"regrouped": False, **numbers}
    ordered = _best_for_pool_first(new, pool, evidence)
    return ordered, {"regrouped": True, "groups": ordered, **numbers}


def _gains(grams: Array, names: Sequence[str], groups: Groups) -> Array:
    """New gap less old gap on every window that can judge both, with new groups from all windows but that one."""
    found = []
    for number, gram in enumerate(grams):
        made = _partition(np.nanmean(np.delete(grams, number, axis=0), axis=0), names, len(groups))
        new, old = _gap(gram, names, made), _gap(gram, names, groups)
        if new is not None and old is not None:
            found.append(new - old)
    return np.array(found)


def _lower_bound(values: Array, confidence: float) -> float:
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    return float(values.mean() - stats.t.ppf(confidence, len(values) - 1) * error)


def _partition(gram: Array, names: Sequence[str], k: int) -> Groups:
    zeros = np.zeros(len(names))
    distance = distance_of(gram)
    estimate = GramEstimate(list(names), gram, gram, zeros, zeros, distance, distance, cosine_of(gram))
    return [sorted(group) for group in group_datasets(estimate, groups=k).groups]


def _gap(gram: Array, names: Sequence[str], groups: Groups) -> float | None:
    """mean(between) - mean(within) squared distance over the pairs seen; None when one of the two has no pair."""
    group_of = {name: number for number, group in enumerate(groups) for name in group}
    labels = np.array([group_of[name] for name in names])
    upper = np.triu_indices(len(names), 1)
    distance, within = distance_of(gram)[upper], (labels[:, None] == labels)[upper]
    inside, between = (distance[side & np.isfinite(distance)] for side in (within, ~within))
    return float(between.mean() - inside.mean()) if inside.size and between.size else None


def _best_for_pool_first(groups: Groups, pool: Mapping[str, float], evidence: WindowEvidence) -> Groups:
    """By how much, to first order, a step along the group's mean gradient lowers the pool's loss."""
    inside = sorted(pool)

    def gain(group: list[str]) -> float:
        pairs = evidence.grams([*group, *inside])[:, : len(group), len(group) :]
        count = np.isfinite(pairs).sum(0)
        mean = np.nansum(pairs, axis=0) / np.maximum(count, 1)  # what was never seen together counts as unrelated
        return float((mean @ [pool[name] for name in inside]).mean())

    return sorted(groups, key=gain, reverse=True)

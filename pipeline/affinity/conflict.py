"""What a window of training says about conflict between datasets: numbers for the event log, MLflow and the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.affinity.estimator import GradientStats, corrected_gram


def conflict_summary(stats: GradientStats, *, micro_batches_per_count: int = 1) -> dict[str, Any]:
    """Numbers for the log of a window of training: how far the datasets' gradients agree.

    Datasets with fewer than two micro-batches in the window are left out. `negative_share` is the share of negative
    inner products between different datasets; `mean_cosine` is over pairs whose cosine is defined, and `cosine` holds
    each of these, first dataset -> second -> value. `noise_scale` is in micro-batches, by dataset. `dropped` counts
    micro-batches with non-finite gradients, `dropped_by_dataset` is there when there are any.

    Args:
        micro_batches_per_count: micro-batches behind one counted sketch; more than one for sketches of whole steps.
    """
    seen = [name for name, n in zip(stats.datasets, stats.count, strict=True) if n >= 2]
    summary: dict[str, Any] = {"datasets": len(seen), "dropped": 0}
    if stats.dropped is not None and stats.dropped.any():
        dropped = {name: int(n) for name, n in zip(stats.datasets, stats.dropped, strict=True) if n}
        summary |= {"dropped": sum(dropped.values()), "dropped_by_dataset": dropped}
    if len(seen) < 2:
        return summary
    estimate = corrected_gram(stats.select(seen))
    upper = np.triu_indices(len(seen), 1)
    cosines = estimate.cosine[upper]
    summary["negative_share"] = float((estimate.gram[upper] < 0).mean())
    summary["mean_cosine"] = float(np.nanmean(cosines)) if np.isfinite(cosines).any() else None
    pairs: dict[str, dict[str, float]] = {}
    for i, j, value in zip(*upper, cosines, strict=True):
        if np.isfinite(value):
            pairs.setdefault(seen[i], {})[seen[j]] = round(float(value), 4)
    summary["cosine"] = pairs
    summary["noise_scale"] = {
        name: float(value) * micro_batches_per_count
        for name, value in zip(seen, estimate.noise_scale, strict=True)
        if np.isfinite(value)
    }
    return summary

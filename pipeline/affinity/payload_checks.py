"""What numbers gradient statistics can hold at all: asked of every array that somebody sent.

Arrays go by their `GradientStats` field names; kept micro-batches of all datasets are one array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.affinity.estimator import KEPT_AXES, STATS_AXES, Array
from pipeline.errors import PayloadError

AXES = {**STATS_AXES, **KEPT_AXES}
COUNTS = ("count", "half_count", "dropped", "tokens")
WEIGHTS = ("weight", "weight_sq", "half_weight", "half_weight_sq", "batch_weights")
_REQUIRED = ("count", "sum", "sum_sq")
_TOGETHER = (
    ("weight", "weight_sq"),
    ("half_count", "half_sum", "half_sum_sq"),
    ("half_weight", "half_weight_sq"),
    ("group_sum", "group_sum_sq"),
)
_NEEDS = (
    ("batch_weights", "batches"),
    ("group_batches", "batches"),
    ("group_batches", "group_sum"),
    ("half_weight", "half_count"),
)
_MAX_COUNT = 2**53
_RTOL = 1e-6  # of sums that were added up in another order


def require_names(tensors: Mapping[str, Any], *, has_groups: bool) -> None:
    """Every array known, none missing, and those that only make sense together all there."""
    unknown = sorted(set(tensors) - set(AXES))
    if unknown:
        raise PayloadError("sketches with unknown arrays", got=shortened(unknown), expected=", ".join(AXES))
    missing = {name for name in _REQUIRED if name not in tensors}
    missing |= {needed for name, needed in _NEEDS if name in tensors and needed not in tensors}
    for names in _TOGETHER:
        there = [name in tensors for name in names]
        if any(there) and not all(there):
            missing |= {name for name in names if name not in tensors}
    if has_groups and "group_sum" not in tensors:
        missing.add("group_sum")
    if missing:
        raise PayloadError("sketches lack arrays", got=", ".join(sorted(missing)))


def require_values(arrays: dict[str, Array]) -> None:
    """Numbers that can be: finite, sums of squares and counts not negative, weights that agree with each other."""
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise PayloadError(
                "sketches hold NaN or infinity",
                where={"array": name},
                hint="drop non-finite micro-batches and count them in `dropped`",
            )
        if name in COUNTS:
            total_count(value, name)
        elif "K" not in AXES[name] and (value < 0).any():
            raise PayloadError(
                "a sum of squares or a weight is negative", where={"array": name}, got=float(value.min())
            )
    count = arrays["count"]
    if "half_count" in arrays and not np.array_equal(arrays["half_count"].sum(0), count):
        raise PayloadError("the halves' micro-batches are not all micro-batches", where={"array": "half_count"})
    if arrays["sum"][count == 0].any() or arrays["sum_sq"][count == 0].any():
        raise PayloadError("sketches of no micro-batch must be zero", where={"array": "sum"})
    with np.errstate(over="ignore", invalid="ignore"):
        _require_weights(arrays)


def _require_weights(arrays: dict[str, Array]) -> None:
    """Sums of weights: positive, within Cauchy-Schwarz, and the same by micro-batch, by half and in all."""
    arrays = with_weights(arrays)
    count, weight, weight_sq = arrays["count"], arrays["weight"], arrays["weight_sq"]
    slack = 1 + _RTOL
    fits = (weight_sq <= slack * weight**2) & (weight**2 <= slack * count * weight_sq) & ((weight > 0) == (count > 0))
    if "half_weight" in arrays:
        fits &= np.isclose(arrays["half_weight"].sum(0), weight, rtol=_RTOL, atol=0)
        fits &= np.isclose(arrays["half_weight_sq"].sum(0), weight_sq, rtol=_RTOL, atol=0)
    if "batch_weights" in arrays:
        each = arrays["batch_weights"].astype(np.float64)
        owner = np.repeat(np.arange(len(count)), count)
        fits &= np.isclose(np.bincount(owner, each, len(count)), weight, rtol=_RTOL, atol=0)
        fits &= np.isclose(np.bincount(owner, each**2, len(count)), weight_sq, rtol=_RTOL, atol=0)
        fits &= bool((each > 0).all())
    if not fits.all():
        row = int(np.argmin(fits))
        raise PayloadError(
            "the weights of sketches contradict each other",
            where={"row": row},
            got=f"{count[row]} micro-batches, weights {weight[row]:.6g}, squared {weight_sq[row]:.6g}",
        )


def total_count(counts: Array, name: str = "count") -> int:
    if counts.size and (counts.min() < 0 or counts.max() > _MAX_COUNT // counts.size):
        raise PayloadError("a count is negative or too large", where={"array": name}, got=counts.tolist()[:8])
    return int(counts.sum())


def with_weights(arrays: dict[str, Array]) -> dict[str, Array]:
    """The same arrays, with weights of 1 written down where none are given."""
    filled = dict(arrays)
    for prefix in ("", "half_"):
        if f"{prefix}count" in arrays:
            for name in ("weight", "weight_sq"):
                filled.setdefault(prefix + name, arrays[f"{prefix}count"].astype(np.float64))
    if "batches" in arrays:
        filled.setdefault("batch_weights", np.ones(len(arrays["batches"])))
    return filled


def shortened(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more

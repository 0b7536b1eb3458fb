"""Checks of an affinity version that came as bytes, from anywhere: all parts there, each of its type, and fitting."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.affinity.estimator import Array
from pipeline.affinity.grouping import Grouping
from pipeline.affinity.partitions import explicit_partition
from pipeline.errors import AffinityError, PayloadError

INTERVAL, MODULE = "interval.", "module."  # before the names of arrays that are not the estimate's own
ESTIMATE_ARRAYS = ("gram", "raw_gram", "noise", "noise_scale", "distance_sq", "raw_distance_sq", "cosine")
INTERVAL_ARRAYS = ("distance_low", "distance_high", "cosine_low", "cosine_high")
PLAIN: dict[str, type | tuple[type, ...]] = {
    "method": str,
    "datasets": list,
    "spec": dict,
    "source": str,
    "inputs": str,
    "parameters": dict,
    "cost": dict,
    "reliability": (float, int, type(None)),
}
METHODS = ("gradient", "transferability")
_ALWAYS_FINITE = ("gram", "raw_gram", "distance_sq", "raw_distance_sq")


def checked_plain(content: dict[str, Any]) -> dict[str, Any]:
    """The fields of a version that are plain JSON; KeyError, TypeError or ValueError where one is missing or unfit."""
    plain = {name: of_type(content[name], kind) for name, kind in PLAIN.items()}
    if plain["method"] not in METHODS:
        raise ValueError(f"method {plain['method']!r} is none of {', '.join(METHODS)}")
    if not strings(plain["datasets"]):
        raise ValueError("no datasets")
    return plain


def checked_grouping(value: Any, datasets: list[str]) -> Grouping:
    """The groups of a document; PayloadError, TypeError, ValueError or KeyError where they do not fit the datasets."""
    grouping = Grouping.from_json(of_type(value, dict))
    try:
        explicit_partition([strings(group) for group in grouping.groups], datasets)
    except AffinityError as error:
        raise PayloadError(error.what, got=error.got) from error
    of_type(grouping.verdict, str)
    numbers = [grouping.gap, grouping.gap_low, grouping.gap_high]
    for by_k in (grouping.stability, grouping.silhouette, grouping.eigengap):
        numbers += by_k.values()
    for number in numbers:
        of_type(number, (float, int, type(None)))
    d = len(datasets)
    if grouping.co_assignment is not None and np.asarray(grouping.co_assignment, dtype=np.float64).shape != (d, d):
        raise ValueError(f"co_assignment is not {d} x {d}")
    return grouping


def of_type(value: Any, kind: type | tuple[type, ...]) -> Any:
    """`value`, or TypeError; true and false are no numbers."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{str(value)[:40]!r} is not of type {kind}")
    return value


def check_arrays(arrays: dict[str, Array], datasets: list[str]) -> None:
    """Every matrix there, of the right size and type, and nothing else; PayloadError otherwise."""
    d = len(datasets)
    missing = [name for name in ESTIMATE_ARRAYS if name not in arrays]
    if missing:
        raise PayloadError("an affinity version lacks matrices", got=", ".join(missing))
    known = {*ESTIMATE_ARRAYS, *(INTERVAL + name for name in INTERVAL_ARRAYS)}
    for name, value in arrays.items():
        wanted = (d,) if name in ("noise", "noise_scale") else (d, d)
        if not (name in known or name.startswith(MODULE)) or value.shape != wanted or value.dtype != np.float64:
            raise PayloadError(
                "an affinity version with an unfit matrix",
                where={"matrix": name},
                got=f"{value.dtype} {value.shape}",
                expected=f"float64 {wanted}, one of {', '.join(sorted(known))}, {MODULE}<parameter group>",
            )
        if (name in _ALWAYS_FINITE or name.startswith(MODULE)) and not np.isfinite(value).all():
            raise PayloadError("an affinity version with NaN or infinity", where={"matrix": name})


def strings(value: Any) -> list[str]:
    """`value`, or TypeError when it is not a list of strings."""
    if not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        raise TypeError("expected a list of strings")
    return value

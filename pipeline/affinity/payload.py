"""Gradient statistics as bytes: what a job sends to a store, and what a store believes of it.

One safetensors file, never pickle. Its arrays are those of `GradientStats` under their field names, kept micro-batches
of all datasets after one another; its metadata has one entry, a JSON document with the format's number, the datasets,
the kind of sketch and the names of the parameter groups. Equal statistics give equal bytes on every machine (one
metadata entry, because several would have no fixed order), so a repeated push is recognised.

Sums stay float64, as they are: float32 would halve the bytes, but statistics that went through a store would then
not give exactly the version that the same statistics give without one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import reduce
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as dump_arrays

from pipeline.affinity.estimator import KEPT_AXES, STATS_AXES, Array, GradientStats
from pipeline.affinity.payload_checks import (
    AXES,
    COUNTS,
    WEIGHTS,
    require_names,
    require_values,
    shortened,
    total_count,
    with_weights,
)
from pipeline.errors import AffinityError, PayloadError

FORMAT = 1
MAX_PAYLOAD_BYTES = 256 * 2**20
MAX_HEADER_BYTES = 4 * 2**20  # 10,000 dataset names and 10,000 parameter groups fit

_DOCUMENT = "statistics"
_DTYPES: dict[str, type[np.generic]] = {"F64": np.float64, "F32": np.float32, "I64": np.int64}
_PLAIN = tuple(item.name for item in fields(GradientStats) if item.name not in AXES)


def dump_contribution(stats: GradientStats, dataset: str) -> bytes:
    """One dataset's part of `stats`, without what differs between equal probes (cost, source).

    Raises:
        PayloadError: see `dump_stats`.
    """
    return dump_stats(replace(stats.select([dataset]), cost={}, source=""))


def load_contribution(
    payload: bytes,
    *,
    dataset: str,
    spec: Mapping[str, Any],
    groups: Sequence[str],
    max_bytes: int = MAX_PAYLOAD_BYTES,
) -> GradientStats:
    """The statistics (D = 1) that `dump_contribution` wrote, checked in every part: the bytes may come from anywhere.

    Args:
        dataset, spec, groups: what the payload must hold; `groups` is empty where groups are not kept apart.

    Raises:
        PayloadError: too large, damaged or cut off, of another dataset, kind of sketch or layout, or with numbers that
            cannot be (NaN, a negative count, weights that contradict each other).
    """
    if len(payload) > max_bytes:
        raise PayloadError("sketches are too large", got=f"{len(payload)} bytes", expected=f"{max_bytes} at most")
    document, arrays = _parse(payload)
    if document["datasets"] != [dataset]:
        raise PayloadError("sketches of another dataset", got=shortened(document["datasets"]), expected=dataset)
    _require_spec(document["spec"], spec)
    if (document["groups"] or []) != list(groups):
        raise PayloadError(
            "sketches with other parameter groups",
            where={"dataset": dataset},
            got=shortened(document["groups"] or []),
            expected=shortened(groups),
            hint="declare the probe with the groups that its sketches keep apart",
        )
    return _stats_of({**document, "spec": dict(spec), "cost": {}, "source": ""}, arrays)


def dump_stats(stats: GradientStats) -> bytes:
    """All of `stats` as bytes; `load_stats` reads them.

    Raises:
        PayloadError: counts that are no whole numbers, a cost that is no number, or names that are too many to fit.
    """
    arrays = {name: _as_stored(name, value) for name, value in _arrays_of(stats).items()}
    document = {"format": FORMAT, **{name: getattr(stats, name) for name in _PLAIN}}
    try:
        text = json.dumps(document, sort_keys=True, allow_nan=False)
    except ValueError as error:
        raise PayloadError("statistics that JSON cannot describe", got=str(error)) from error
    payload = dump_arrays(arrays, {_DOCUMENT: text})
    _header(payload)
    return payload


def load_stats(payload: bytes) -> GradientStats:
    """The statistics that `dump_stats` wrote, checked like a contribution.

    Raises:
        PayloadError: damaged or cut off, or numbers that cannot be.
    """
    return _stats_of(*_parse(payload))


def combine(
    parts: Mapping[str, Sequence[GradientStats]], *, source: str = "", cost: Mapping[str, Any] | None = None
) -> GradientStats:
    """The statistics of all datasets, each summed over its contributors.

    Kept micro-batches of the contributors follow one another in the order given. What only some parts have (kept
    micro-batches, halves, groups) is left out, except weights: without them all weights are 1.

    Args:
        parts: dataset -> statistics of this one dataset (D = 1), one for each contributor. Gone through once: a mapping
            that loads them on demand needs memory for one dataset beside the result.

    Raises:
        AffinityError: no parts, or parts of other datasets, kinds of sketch or parameter groups.
    """
    first: GradientStats | None = None
    stacked: dict[str, Any] = {}
    weights: set[str] = set()
    for row, (dataset, contributors) in enumerate(parts.items()):
        for part in contributors:
            first = first or part
            _require_alike(part, dataset, first)
            weights |= {name for name in WEIGHTS if getattr(part, name) is not None}
        arrays = _summed(contributors)
        if row == 0:
            stacked = {name: _room_for(len(parts), name, value) for name, value in arrays.items()}
        stacked = {name: rows for name, rows in stacked.items() if name in arrays}
        for name, rows in stacked.items():
            if name in KEPT_AXES:
                rows.append(arrays[name])
            else:
                _by_dataset(name, rows)[row] = _by_dataset(name, arrays[name])[0]
    if first is None or "sum" not in stacked:
        raise AffinityError("there are no sketches to combine", where={"datasets": ", ".join(parts) or "none"})
    return GradientStats(
        datasets=list(parts),
        spec=dict(first.spec),
        groups=first.groups if "group_sum" in stacked else None,
        source=source,
        cost=dict(cost or {}),
        **{name: rows for name, rows in stacked.items() if name in weights or name not in WEIGHTS},
    )


def _require_alike(part: GradientStats, dataset: str, first: GradientStats) -> None:
    apart = None not in (part.groups, first.groups) and part.groups != first.groups
    if part.datasets != [dataset] or part.spec != first.spec or apart:
        raise AffinityError(
            "sketches that do not belong together cannot be combined",
            where={"dataset": dataset},
            got=f"{part.datasets}, {part.spec}, groups {part.groups}",
            expected=f"[{dataset!r}], {first.spec}, groups {first.groups}",
        )


def _room_for(n_datasets: int, name: str, value: Array) -> Array | list[Array]:
    """Where `n_datasets` arrays like `value` (D = 1) will stand."""
    if name in KEPT_AXES:
        return []
    axis = STATS_AXES[name].index("D")
    return np.empty((*value.shape[:axis], n_datasets, *value.shape[axis + 1 :]), value.dtype)


def _by_dataset(name: str, value: Array) -> Array:
    """A view of one of the `STATS_AXES` arrays with the datasets' axis in front."""
    return value.swapaxes(STATS_AXES[name].index("D"), 0)


def _summed(contributors: Sequence[GradientStats]) -> dict[str, Array]:
    """One dataset's arrays over its contributors, with all weights: sums added up, kept micro-batches in a row."""
    each = [with_weights(_arrays_of(part)) for part in contributors]
    shared = [name for name in (each[0] if each else {}) if all(name in other for other in each)]

    def over_all(name: str) -> Array:
        values = [arrays[name] for arrays in each]
        return np.concatenate(values) if name in KEPT_AXES and len(values) > 1 else reduce(np.add, values)

    return {name: over_all(name) for name in shared}


def _arrays_of(stats: GradientStats) -> dict[str, Array]:
    """All arrays of `stats` by field name; kept micro-batches of all datasets in one array."""
    arrays = {}
    for name in AXES:
        value = getattr(stats, name)
        if value is not None:
            arrays[name] = (value[0] if len(value) == 1 else np.concatenate(value)) if name in KEPT_AXES else value
    return arrays


def _as_stored(name: str, value: Array) -> Array:
    if name in COUNTS:
        whole = value.astype(np.int64)
        if not np.array_equal(whole, value):
            raise PayloadError("counts must be whole numbers", where={"array": name}, got=value.dtype)
        return np.ascontiguousarray(whole)
    narrow = name in KEPT_AXES and value.dtype == np.float32
    return np.ascontiguousarray(value, dtype=np.float32 if narrow else np.float64)


def _stats_of(document: dict[str, Any], arrays: dict[str, Array]) -> GradientStats:
    """Builds what `_parse` has checked so far, after checking the numbers."""
    require_values(arrays)
    ends = np.cumsum(arrays["count"])[:-1]
    values: dict[str, Any] = {n: np.split(each, ends) if n in KEPT_AXES else each for n, each in arrays.items()}
    return GradientStats(**{name: document[name] for name in _PLAIN}, **values)


def _header(payload: bytes) -> Any:
    """The format's JSON header: 8 bytes with its length, then as many bytes of JSON."""
    size = int.from_bytes(payload[:8], "little")
    if len(payload) < 8 or size > len(payload) - 8:
        raise PayloadError("sketches are cut off", got=f"{len(payload)} bytes", expected=f"{size} bytes of header")
    if size > MAX_HEADER_BYTES:
        raise PayloadError(
            "the header of sketches is too large", got=f"{size} bytes", expected=f"{MAX_HEADER_BYTES} at most"
        )
    return _json(payload[8 : 8 + size])


def _parse(payload: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """The document and the arrays of a payload: known names, types and shapes that fit each other and the bytes."""
    header = _header(payload)
    try:
        text = header["__metadata__"][_DOCUMENT]
        found = deserialize(payload)  # refuses offsets that overlap, leave holes, or do not fit shapes and bytes
    except (KeyError, TypeError, SafetensorError) as error:
        raise PayloadError("these bytes are not sketches", got=f"{len(payload)} bytes: {error}") from error
    document = _checked_document(_json(text))
    sizes = {"D": len(document["datasets"]), "H": 2, "K": document["spec"]["k"], "G": len(document["groups"] or ())}
    tensors = {name: tensor for name, tensor in found}
    require_names(tensors, has_groups=document["groups"] is not None)
    arrays = {}
    for name in sorted(tensors, key=lambda name: name in KEPT_AXES):  # counts first: they say how many were kept
        tensor, shape = tensors[name], tuple(sizes[axis] for axis in AXES[name])
        allowed = ("I64",) if name in COUNTS else ("F32", "F64") if name in KEPT_AXES else ("F64",)
        if tuple(tensor["shape"]) != shape or tensor["dtype"] not in allowed:
            raise PayloadError(
                "an array of sketches does not fit",
                where={"array": name},
                got=f"{tensor['dtype']} {tuple(tensor['shape'])}",
                expected=f"{' or '.join(allowed)} {shape}",
            )
        arrays[name] = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(shape)
        if name == "count":
            sizes["B"] = total_count(arrays[name])
    return document, arrays


def _checked_document(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        got = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise PayloadError("sketches of another format", got=got, expected=f"format {FORMAT}")
    document = {name: value for name, value in document.items() if name != "format"}
    kinds = {"datasets": _are_names, "spec": _is_spec, "groups": lambda value: value is None or _are_names(value),
             "cost": lambda value: isinstance(value, dict), "source": lambda value: isinstance(value, str)}  # fmt: skip
    unfit = [name for name in _PLAIN if name not in document or not kinds[name](document[name])]
    unfit += sorted(set(document) - set(_PLAIN))
    if unfit:
        raise PayloadError("the description of sketches has missing, unknown or unfit parts", got=", ".join(unfit))
    return document


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, list) and all(isinstance(each, str) for each in value) and 0 < len(set(value)) == len(value)
    )


def _is_spec(value: Any) -> bool:
    return isinstance(value, dict) and type(value.get("k")) is int and value["k"] > 0


def _require_spec(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    differing = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
    if differing:
        raise PayloadError(
            f"sketches of another kind: they differ in {', '.join(differing)}",
            got={key: found.get(key) for key in differing},
            expected={key: expected.get(key) for key in differing},
            hint="all jobs of a probe must use the same sketch settings and the same base model",
        )


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PayloadError("the header of sketches is not JSON", got=f"{type(error).__name__}: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

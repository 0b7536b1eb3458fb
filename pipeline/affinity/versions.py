"""Affinity versions on disk: immutable, checked by digest, never half-written.

    <folder>/<version>.json           datasets, groups, evidence, parameters; written last: the version is complete
    <folder>/<version>.safetensors    its matrices
    <folder>/latest                   name of the version saved last; latest-<method>: of those made by that method

A version is named by its content (`v-` and 12 hex digits), so a plan that pins a version can never get another one.
Between processes it travels as one file: the matrices, with the JSON document in their metadata (`dump_version`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as dump_arrays

from pipeline.affinity.estimator import KEPT_AXES, Array, GradientStats, GramEstimate
from pipeline.affinity.grouping import Grouping
from pipeline.affinity.partitions import Groups
from pipeline.affinity.resample import Bootstrap, split_half_reliability
from pipeline.affinity.version_checks import (
    ESTIMATE_ARRAYS,
    INTERVAL,
    INTERVAL_ARRAYS,
    MODULE,
    check_arrays,
    checked_grouping,
    checked_plain,
    of_type,
    strings,
)
from pipeline.atomic import write_atomic
from pipeline.errors import AffinityError, PayloadError

FORMAT = 2
LATEST = "latest"

VERSION_ID = re.compile(r"v-[0-9a-f]{12}")
_CHANGED = "delete its two files and run `gst group` again; runs that pinned it cannot be resumed"
_DOCUMENT = "version"  # the metadata entry of `dump_version` that holds the JSON document
_STATS_JSON = ("datasets", "spec", "cost", "source", "groups")


@dataclass(frozen=True)
class AffinityVersion:
    """One estimate with its groups, as it was when it was made.

    Attributes:
        method: `gradient` or `transferability`.
        spec: the sketch's projection; source: digest of what was probed.
        inputs: `inputs_digest` of what it was computed from; empty when the maker did not say.
        intervals: distance_low, distance_high, cosine_low, cosine_high, each [D, D]; empty without resamples.
        modules: parameter group -> its own corrected Gram matrix [D, D]; those of all groups add up to that of the
            whole gradient. Empty where groups were not kept apart.
        parameters: how it was computed: level and seed of the intervals, number of resamples, weights of modules.
        reliability: split-half reliability of the distances; None when it could not be computed.
        created: UTC time, not part of the content that names the version.
    """

    datasets: list[str]
    spec: dict[str, Any]
    source: str
    estimate: GramEstimate
    grouping: Grouping
    intervals: dict[str, Array] = field(default_factory=dict)
    modules: dict[str, Array] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    reliability: float | None = None
    inputs: str = ""
    created: str = ""
    method: str = "gradient"

    @property
    def groups(self) -> Groups:
        """Dataset names, in the order in which the groups enter training."""
        return self.grouping.groups

    @property
    def verdict(self) -> str:
        return self.grouping.verdict

    @cached_property
    def id(self) -> str:
        return _version_id(self._content(), self._arrays())

    def document(self) -> dict[str, Any]:
        """Everything but the matrices, as the JSON file says it."""
        return {"id": self.id, "created": self.created, **self._content()}

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "method": self.method,
            "datasets": self.datasets,
            "spec": self.spec,
            "source": self.source,
            "inputs": self.inputs,
            "warnings": list(self.estimate.warnings),
            "grouping": self.grouping.to_json(),
            "parameters": self.parameters,
            "cost": self.cost,
            "reliability": self.reliability,
        }

    def _arrays(self) -> dict[str, Array]:
        estimate = {name: getattr(self.estimate, name) for name in ESTIMATE_ARRAYS}
        intervals = {f"{INTERVAL}{name}": value for name, value in self.intervals.items()}
        return {**estimate, **intervals, **{f"{MODULE}{name}": value for name, value in self.modules.items()}}


def inputs_digest(stats: GradientStats, parameters: dict[str, Any]) -> str:
    """Identifies a computation: the probe's numbers and the parameters, both exactly."""
    return _digest({"parameters": parameters, "spec": stats.spec}, _stats_arrays(stats))


def find_version(folder: Path, inputs: str) -> AffinityVersion | None:
    """The version that was computed from `inputs`, if it is there.

    Computing again may differ in the last bits (sums depend on where arrays lie in memory), which would name another
    version; so what exists is used.
    """
    for path in sorted(folder.glob("v-*.json")):
        if _read_json(path).get("inputs") == inputs:
            return load_version(folder, path.stem)
    return None


def make_version(
    stats: GradientStats, estimate: GramEstimate, intervals: Bootstrap | None, grouping: Grouping, inputs: str = ""
) -> AffinityVersion:
    """The version of these results; `save_version` writes it."""
    reliability = split_half_reliability(stats)
    parameters: dict[str, Any] = {"batches": {n: int(b) for n, b in zip(stats.datasets, stats.count, strict=True)}}
    arrays, drawn = describe_intervals(intervals)
    return AffinityVersion(
        datasets=list(estimate.datasets),
        spec=dict(stats.spec),
        source=stats.source or _arrays_digest(_stats_arrays(stats)),
        estimate=estimate,
        grouping=grouping,
        intervals=arrays,
        parameters=parameters | drawn,
        cost=dict(stats.cost),
        reliability=reliability if np.isfinite(reliability) else None,
        inputs=inputs,
        created=datetime.now(UTC).isoformat(),
    )


def describe_intervals(intervals: Bootstrap | None) -> tuple[dict[str, Array], dict[str, Any]]:
    """What a version keeps of resamples: the bounds by name, each [D, D], and how they were drawn; {} without any."""
    if intervals is None:
        return {}, {}
    drawn = {"resamples": len(intervals.gram), "level": intervals.level, "seed": intervals.seed}
    return {name: getattr(intervals, name) for name in INTERVAL_ARRAYS}, drawn


def save_version(folder: Path, version: AffinityVersion) -> str:
    """Write `version` below `folder`, make it the latest, and return its name. Saving it again changes nothing.

    Raises:
        AffinityError: a file of that name is there but damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{version.id}.json").exists():
        load_version(folder, version.id)
    else:
        write_atomic(folder / f"{version.id}.safetensors", _dump(version._arrays()))
        write_atomic(folder / f"{version.id}.json", _json_bytes(version.document(), indent=1))
    for pointer in (f"{LATEST}-{version.method}", LATEST):
        write_atomic(folder / pointer, f"{version.id}\n".encode())
    return version.id


@contextmanager
def latest_kept(folder: Path) -> Iterator[None]:
    """Whatever is saved in `folder` inside the block, what is the latest there does not change."""
    before = {path.name: path.read_bytes() for path in folder.glob(f"{LATEST}*")}
    try:
        yield
    finally:
        for path in folder.glob(f"{LATEST}*"):
            if path.name not in before:
                path.unlink()
            elif path.read_bytes() != before[path.name]:
                write_atomic(path, before[path.name])


def has_versions(folder: Path) -> bool:
    """Whether `folder` holds a saved version."""
    return (folder / LATEST).is_file()


def load_version(folder: Path, version_id: str = LATEST, method: str | None = None) -> AffinityVersion:
    """The version named `version_id` (`latest`: the one saved last, by `method` if that is given), checked.

    Raises:
        AffinityError: no such version, not a version name, or files that are damaged or were changed.
    """
    if version_id == LATEST:
        pointer = folder / (f"{LATEST}-{method}" if method else LATEST)
        if not pointer.is_file():
            raise AffinityError(
                f"there is no affinity version{f' made by {method}' if method else ''} here",
                where={"folder": folder},
                hint="run `gst probe` (or `gst transfer`), then `gst group`",
            )
        version_id = pointer.read_text().strip()
    if not VERSION_ID.fullmatch(version_id):
        raise AffinityError("not the name of an affinity version", got=version_id, expected="v-<12 hex digits>, latest")
    path = folder / f"{version_id}.json"
    if not path.exists():
        known = sorted(each.stem for each in folder.glob("v-*.json"))
        raise AffinityError(
            "no such affinity version", where={"folder": folder}, got=version_id, expected=", ".join(known) or None
        )
    try:
        version, stored_id = _from_document(*_read(path))
    except PayloadError as error:
        raise AffinityError(
            error.what, where={"file": path, **error.where}, got=error.got, expected=error.expected, hint=_CHANGED
        ) from error
    if stored_id != version_id or version.id != version_id:
        raise AffinityError(
            "an affinity version was changed after it was saved",
            where={"file": path},
            got=version.id,
            expected=version_id,
            hint=_CHANGED,
        )
    return version


def dump_version(version: AffinityVersion) -> bytes:
    """The version as one safetensors file; `parse_version` reads it."""
    return _dump(version._arrays(), {_DOCUMENT: _json_bytes(version.document()).decode()})


def parse_version(payload: bytes) -> AffinityVersion:
    """The version that `dump_version` wrote, checked in every part: the bytes may come from anywhere.

    Raises:
        PayloadError: damaged or cut off, of another format, sizes that do not fit, or not what its name says.
    """
    try:
        arrays = load_arrays(payload)
        # Bytes 0 to 7 of the format are the length of its JSON header, which the library has just checked.
        header = _parse_json(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        content = _parse_json(header["__metadata__"][_DOCUMENT])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PayloadError(
            "these bytes are not an affinity version", got=f"{len(payload)} bytes: {type(error).__name__}: {error}"
        ) from error
    version, stored_id = _from_document(content, arrays)
    if stored_id != version.id:
        raise PayloadError(
            "an affinity version is not what its name says", got=stored_id, expected=version.id, hint="send it again"
        )
    return version


def _from_document(content: Any, arrays: dict[str, Array]) -> tuple[AffinityVersion, Any]:
    """The version of a JSON document and its matrices, and the name that it claims.

    Raises:
        PayloadError: another format, missing or unfitting parts.
    """
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise PayloadError("an affinity version of another format", got=found, expected=FORMAT)
    try:
        plain = checked_plain(content)
        check_arrays(arrays, plain["datasets"])
        version = AffinityVersion(
            estimate=GramEstimate(
                datasets=plain["datasets"],
                warnings=tuple(strings(content["warnings"])),
                **{name: arrays[name] for name in ESTIMATE_ARRAYS},
            ),
            grouping=checked_grouping(content["grouping"], plain["datasets"]),
            intervals={name: arrays[INTERVAL + name] for name in INTERVAL_ARRAYS if INTERVAL + name in arrays},
            modules={name.removeprefix(MODULE): arrays[name] for name in arrays if name.startswith(MODULE)},
            created=of_type(content["created"], str),
            **plain,
        )
        assert version.id  # cannot be computed from what is no JSON
        return version, content["id"]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise PayloadError(
            "an affinity version with a part that is missing or unfit", got=f"{type(error).__name__}: {error}"
        ) from error


def _stats_arrays(stats: GradientStats) -> dict[str, Array]:
    """All arrays of `stats` by field name; kept micro-batches in one [N, K], their weights in one [N]."""
    named = {item.name: getattr(stats, item.name) for item in fields(stats) if item.name not in _STATS_JSON}
    for name in KEPT_AXES:
        if named[name] is not None:
            named[name] = np.concatenate(named[name])
    return {name: value for name, value in named.items() if value is not None}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """A JSON file and the arrays beside it."""
    content = _read_json(path)
    try:
        return content, load_arrays(path.with_suffix(".safetensors").read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = _parse_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, dict):
        raise _unreadable(path, TypeError("not a JSON object"))
    return content


def _unreadable(path: Path, error: Exception) -> AffinityError:
    return AffinityError(
        f"cannot read affinity data: {error}", where={"file": path}, hint="make it again: `gst probe`, `gst group`"
    )


def _dump(arrays: dict[str, Array], metadata: dict[str, str] | None = None) -> bytes:
    return dump_arrays({name: np.ascontiguousarray(value) for name, value in arrays.items()}, metadata)


def _parse_json(text: str | bytes) -> Any:
    """JSON as the standard has it: NaN and Infinity are errors."""
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _json_bytes(value: Any, indent: int | None = None) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=indent, allow_nan=False) + "\n").encode()


def _arrays_digest(arrays: dict[str, Array]) -> str:
    """sha256 over names, types, shapes and values: the same however a file lays them out."""
    digest = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


def _digest(content: dict[str, Any], arrays: dict[str, Array]) -> str:
    return hashlib.sha256(_json_bytes({**content, "arrays": _arrays_digest(arrays)})).hexdigest()


def _version_id(content: dict[str, Any], arrays: dict[str, Array]) -> str:
    return f"v-{_digest(content, arrays)[:12]}"

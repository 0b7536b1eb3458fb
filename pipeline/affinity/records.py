"""What jobs tell the affinity store: plain frozen records, checked alike in a job and at the service's door."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
MAX_DATASETS = 10_000
MAX_STEP = 2**53 - 1  # what JSON numbers hold exactly
MAIN = "main"

# A name becomes part of URLs and of messages; it can never be a path.
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Step = Annotated[int, Field(ge=0, le=MAX_STEP)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunRecord(_Record):
    """A training run or a probe. Its name is unique in a store; declared again it must be equal."""

    name: Name
    project: Name
    arm: Name
    seed: Annotated[int, Field(ge=-(2**53), le=MAX_STEP)] = 0
    datasets: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_DATASETS)]
    config_digest: str = Field(default="", max_length=64)

    @model_validator(mode="after")
    def _each_once(self) -> RunRecord:
        _require_each_once("datasets", self.datasets)
        return self


class ProbeRecord(_Record):
    """What will be pushed for one step of a run: every dataset by every contributor, under one kind of sketch.

    A `probe` is a probe of gradients at one checkpoint; a `window` is what a window of training saw.
    """

    run: Name
    step: Step
    kind: Literal["probe", "window"] = "probe"
    datasets: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_DATASETS)]
    contributors: Annotated[tuple[Name, ...], Field(min_length=1, max_length=1000)] = (MAIN,)
    spec: dict[str, str | int] = Field(description="`SketchSpec.to_json()`: sketches of another one are refused")
    groups: Annotated[tuple[str, ...], Field(max_length=10_000)] = Field(
        default=(), description="names of parameter groups that are kept apart"
    )
    source: str = Field(default="", max_length=128, description="digest of recipe, base model and data")
    cost: dict[str, float] = Field(default={}, description="samples, tokens, steps, seconds ...")

    @model_validator(mode="after")
    def _each_once(self) -> ProbeRecord:
        _require_each_once("datasets", self.datasets)
        _require_each_once("contributors", self.contributors)
        return self

    @property
    def spec_digest(self) -> str:
        return spec_digest(self.spec)


class SketchKey(_Record):
    """Where one contributor's sketches of one dataset belong. The same key never gets other bytes."""

    run: Name
    step: Step
    dataset: Name
    contributor: Name = MAIN
    spec: Digest


class ProbeStatus(_Record):
    """A declared probe and what of it is still to come, as `dataset/contributor`."""

    probe: ProbeRecord
    missing: tuple[str, ...] = ()
    declared: str = Field(default="", description="UTC time")

    @property
    def is_complete(self) -> bool:
        return not self.missing


class RunStatus(_Record):
    """A run of the store. `events` is the position after its last stored event."""

    run: RunRecord
    declared: str = ""
    events: int = 0
    probes: tuple[Step, ...] = ()


class VersionSummary(_Record):
    """One line about an affinity version; `run` and `step`: of the probe in this store that it was computed from."""

    id: str
    created: str
    method: str
    datasets: int
    groups: int
    verdict: str
    run: str | None = None
    step: int | None = None


class EventLine(_Record):
    """One event of a run's log. `position` is where its line ends in the log, in bytes: unique, and rising."""

    position: Annotated[int, Field(gt=0, le=MAX_STEP)]
    event: dict[str, Any]


def spec_digest(spec: dict[str, Any]) -> str:
    """12 hex digits that tell kinds of sketches apart: what `SketchSpec.digest` says of the same spec."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]


def safe_name(text: str) -> str:
    """`text` as a `Name`: other characters become dashes; equal texts, equal names."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("._-")[:128]
    return cleaned or "unnamed"


def _require_each_once(what: str, names: tuple[str, ...]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) != len(names) else []
    if twice:
        raise ValueError(f"{what} must be named once each; twice: {', '.join(twice)}")

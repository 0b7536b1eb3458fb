"""The JSON of the service's own answers; what jobs send is in `pipeline.affinity.records`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.affinity.records import EventLine, RunRecord, Step
from pipeline.config.schema import AffinityConfig

MAX_BOOTSTRAP = 10_000
MAX_SEED = 2**32 - 1


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ErrorBody(_Answer):
    """Every answer with a status of 400 or more."""

    error: str = Field(description="class of the error")
    what: str = Field(description="one sentence, what is wrong")
    where: dict[str, Any] = Field(description="named places")
    got: Any = None
    expected: Any = None
    hint: str | None = Field(default=None, description="what to try next")


class Health(_Answer):
    status: Literal["ok"] = "ok"
    version: str


class Outcome(_Answer):
    """Whether the request made something new; False: the same was there already."""

    new: bool


class Position(_Answer):
    """Where the last stored event of a run ends in its log, in bytes."""

    position: int


class RunView(_Answer):
    """A run that was pushed, or is followed in its folder, or both.

    `stored`: it was declared to the store; only then `declared`, `events` and `probes` say something. `followed`: its
    log is read from the experiment folder; then `status` and what stands beside it are what its `run.json` says, and
    `updated` is when its log last grew (seconds since 1970, like `started` and `finished`).
    """

    run: RunRecord
    declared: str = ""
    events: int = 0
    probes: tuple[Step, ...] = ()
    stored: bool = False
    followed: bool = False
    status: str | None = None
    started: float | None = None
    finished: float | None = None
    updated: float | None = None
    stop_reason: str | None = None
    affinity_version: str | None = None


class EventPage(_Answer):
    """Events as they were logged, what a later resume made void included; see `/timeline` for what counts.

    Ask next for what comes after `position`. A `position` below the one that was asked for means that the log was
    started anew: ask again from there.
    """

    events: list[EventLine]
    position: int


class EvalPoint(_Answer):
    """One evaluation; the two lists are in the order of the timeline's `datasets`, null where a dataset lacks."""

    step: int
    split: str
    samples: int | None
    tokens: int | None
    wall_s: float | None
    stage: int | None
    t: float | None
    loss: list[float | None]
    token_accuracy: list[float | None]


class StagePoint(_Answer):
    """A stage began: from this step on, datasets are drawn from `pool` with `weights`."""

    step: int
    stage: int | None
    samples: int | None
    t: float | None
    pool: list[str]
    weights: dict[str, float | None]
    reason: dict[str, Any] = Field(default={}, description="the rule that ended the stage before, with its numbers")


class ResumePoint(_Answer):
    """The run went on from a checkpoint of this step; all that it had logged for later steps is void."""

    step: int
    t: float | None


class Timeline(_Answer):
    """What counts of a run's events, in step order, ready for drawing."""

    run: str
    position: int
    datasets: list[str]
    evals: list[EvalPoint]
    stages: list[StagePoint]
    resumes: list[ResumePoint]


class GroupRequest(AffinityConfig):
    """`AffinityConfig` with bounds on what one request may cost."""

    bootstrap: Annotated[int, Field(ge=10, le=MAX_BOOTSTRAP)] = 200
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0

"""What counts of a run's events, ready for drawing: evaluations by dataset, stages, resumes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.affinity.records import EventLine, Step
from pipeline.affinity.service.schemas import EvalPoint, EventPage, ResumePoint, StagePoint, Timeline
from pipeline.runlog.events import effective_events

MAX_RUNS = 32  # kept in memory


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    step: Step
    t: float | None = None
    samples: int | None = None
    stage: int | None = None


class _Score(BaseModel):
    loss: float | None = None
    token_accuracy: float | None = None


class _Eval(_Event):
    split: str = "val"
    tokens: int | None = None
    wall_s: float | None = None
    datasets: dict[str, _Score]


class _Stage(_Event):
    pool: list[str]
    weights: dict[str, float | None] = {}
    reason: dict[str, Any] = {}


class _Resume(_Event):
    pass


_SHAPES: dict[str, type[_Event]] = {"eval": _Eval, "stage": _Stage, "resume": _Resume}


class Timelines:
    """Timelines of the runs that were asked for last, kept up to date by reading only what is new."""

    def __init__(self, max_runs: int = MAX_RUNS) -> None:
        self._runs: OrderedDict[str, _Growing] = OrderedDict()
        self._max_runs = max_runs
        self._lock = threading.Lock()

    def of(self, run: str, read: Callable[[int], EventPage]) -> Timeline:
        """The timeline of `run`, whose events after a position `read` gives page by page."""
        with self._lock:
            growing = self._runs.setdefault(run, _Growing(run))
            self._runs.move_to_end(run)
            while len(self._runs) > self._max_runs:
                self._runs.popitem(last=False)
        return growing.caught_up(read)


class _Growing:
    """One run's events so far, cut down to what is drawn."""

    def __init__(self, run: str) -> None:
        self._lock = threading.Lock()
        self._run = run
        self._position = 0
        self._events: list[dict[str, Any]] = []
        self._timeline = _draw(run, 0, [])

    def caught_up(self, read: Callable[[int], EventPage]) -> Timeline:
        """The timeline with all that `read` gives behind the position (in bytes) that was reached last time."""
        with self._lock:
            while (page := read(self._position)).position != self._position:
                if page.position < self._position:
                    self._events = []  # the log was started anew
                self._events += [event for line in page.events if (event := _cut_down(line)) is not None]
                self._position = page.position
            if self._position != self._timeline.position:
                self._timeline = _draw(self._run, self._position, self._events)
            return self._timeline


def _cut_down(line: EventLine) -> dict[str, Any] | None:
    """What `effective_events` looks at, and the values that are drawn; None for other events and malformed ones."""
    kind = line.event.get("event")
    shape = _SHAPES.get(kind) if isinstance(kind, str) else None
    if shape is None:
        return None
    try:
        point = shape.model_validate(line.event)
    except ValidationError:
        return None
    return {"event": kind, "step": point.step, "split": getattr(point, "split", None), "point": point}


def _draw(run: str, position: int, events: list[dict[str, Any]]) -> Timeline:
    points = [event["point"] for event in effective_events(events)]
    evals = [point for point in points if isinstance(point, _Eval)]
    datasets = sorted({name for point in evals for name in point.datasets})
    resumes = [event["point"] for event in events if event["event"] == "resume"]
    return Timeline(
        run=run,
        position=position,
        datasets=datasets,
        evals=[_eval_point(point, datasets) for point in evals],
        stages=[StagePoint(**dict(point)) for point in points if isinstance(point, _Stage)],
        resumes=[ResumePoint(step=point.step, t=point.t) for point in resumes],
    )


def _eval_point(point: _Eval, datasets: list[str]) -> EvalPoint:
    nothing = _Score()
    scores = [point.datasets.get(name, nothing) for name in datasets]
    plain = {name: value for name, value in point if name != "datasets"}
    return EvalPoint(
        **plain,
        loss=[score.loss for score in scores],
        token_accuracy=[score.token_accuracy for score in scores],
    )

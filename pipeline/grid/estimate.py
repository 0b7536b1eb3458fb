"""How long tasks take: what was measured in this grid, else what one short run on this machine says."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import Recipe
from pipeline.grid.tasks import Kind, Task
from pipeline.runlog.events import read_event_lines

COMPUTED_S = 3.0  # a task without ranks


@dataclass(frozen=True)
class Speed:
    """Seconds on this machine, from one short run: `start` of the ranks, a `step`, an evaluation, the test split."""

    start: float
    step: float
    evaluation: float
    test: float

    def of(self, task: Task, recipe: Recipe, n_datasets: int) -> float:
        """Predicted seconds of a task that starts ranks."""
        train, probe, transfer = recipe.train, recipe.probe, recipe.transfer
        if task.kind == "score":
            return self.start + self.test
        if task.kind == "probe":
            warm_up = probe.warmup_steps * self.step
            examples = n_datasets * probe.batches_per_dataset * probe.micro_batch
            return self.start + warm_up + examples / train.global_batch * self.step
        if task.kind == "transfer":
            trainings = n_datasets if transfer.trainings == "source" else n_datasets * (n_datasets + 1) // 2
            each = transfer.steps * self.step + self.evaluation
            return self.start + probe.warmup_steps * self.step + transfer.seeds * trainings * each
        evaluations = 1 + train.max_steps // train.eval_every
        return self.start + train.max_steps * self.step + evaluations * self.evaluation + self.test


def measure(run: Path, launched: float) -> Speed:
    """Speed from the event log of a finished run that was launched at the time `launched` (seconds since 1970).

    ValueError: the log does not have two steps, an evaluation and a test.
    """
    events, _ = read_event_lines(run / "events-rank0.jsonl")
    steps, evaluations, tests = seconds_of(events)
    if not (steps and evaluations and tests):
        raise ValueError(f"{run}: no steps, evaluations or test to measure")
    # Ending the ranks takes about a quarter of what starting them does.
    start = 1.25 * (events[0]["t"] - launched)
    return Speed(start, statistics.median(steps), statistics.median(evaluations), tests[-1])


def seconds_of(events: Iterable[Mapping[str, Any]]) -> tuple[list[float], list[float], list[float]]:
    """What each step, each evaluation and each test of a run's event log took."""
    steps, evaluations, tests = [], [], []
    last: Mapping[str, Any] | None = None
    for event in events:
        took = event["t"] - last["t"] if last else 0.0
        before = last["event"] if last else None
        if event["event"] == "step" and before in ("step", "checkpoint", "sketch"):
            steps.append(took)
        elif event["event"] == "eval" and before in ("step", "stage", "sketch"):
            evaluations.append(took)
        elif event["event"] == "test":
            tests.append(event["seconds"] + event.get("generate_seconds", 0.0))
        last = event
    return steps, evaluations, tests


class Forecast:
    """Predicted seconds of tasks: the median of what tasks of the same kind, study and length took here, else `prior`.

    Args:
        prior: task name -> seconds.
    """

    def __init__(self, prior: Mapping[str, float]) -> None:
        self._prior = prior
        self._seen: dict[tuple[Kind, str], list[float]] = {}

    def saw(self, task: Task, seconds: float) -> None:
        """A task ended well after this long."""
        self._seen.setdefault((task.kind, task.study), []).append(seconds)

    def seconds(self, task: Task) -> float:
        if not task.is_run:
            return COMPUTED_S
        seen = self._seen.get((task.kind, task.study))
        return statistics.median(seen) if seen else self._prior.get(task.name, COMPUTED_S)

    def total(self, tasks: Iterable[Task], workers: int = 1) -> float:
        """Seconds until all are done, if so many workers shared them evenly."""
        return sum(self.seconds(task) for task in tasks) / workers

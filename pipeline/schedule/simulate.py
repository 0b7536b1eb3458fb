"""A schedule run against recorded loss curves in place of a training: when would it advance, and why?

What a dataset's loss is at any moment: a function of how many of *its own* examples it was trained on, read off the
recorded run (linear between evaluations). A dataset that is not drawn therefore stays where it is: transfer from
others, which the recorded run had, is credited to its own examples, and forgetting does not occur. Past the record's
end a loss stays at its last value. Gradients are not recorded, so weights that follow them do not move here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config.schema import Recipe
from pipeline.errors import ConfigError
from pipeline.schedule.stages import dataset_of
from pipeline.types import Controller, DatasetScore, Decision, EvalPoint

TOKENS = 1_000_000  # of a made-up score, whose loss is what counts


@dataclass(frozen=True)
class RecordedRun:
    """Evaluations of a finished run.

    Attributes:
        examples: dataset -> [T] own examples trained on at each evaluation; losses: the same of the loss.
        tokens_per_example: of the whole run.
    """

    examples: dict[str, list[float]]
    losses: dict[str, list[float]]
    tokens_per_example: float


@dataclass(frozen=True)
class SimulatedStep:
    """One evaluation of the simulated run, and what the controller made of it."""

    step: int
    tokens: int
    decision: Decision


class Curves:
    """Loss of each dataset by its own examples: the mean over the recorded runs that have it."""

    def __init__(self, runs: Sequence[RecordedRun]) -> None:
        self._runs = runs
        self.tokens_per_example = float(np.mean([run.tokens_per_example for run in runs]))

    def require(self, datasets: Iterable[str]) -> None:
        """ConfigError names datasets that no run recorded."""
        known = {name for run in self._runs for name in run.losses}
        missing = sorted(set(datasets) - known)
        if missing:
            raise ConfigError(
                "the recorded curves lack datasets of this recipe",
                got=", ".join(missing),
                expected=", ".join(sorted(known)),
                hint="give the events of a run on the same datasets",
            )

    def loss(self, dataset: str, examples: float) -> float:
        values = [_read_off(run, dataset, examples) for run in self._runs if dataset in run.losses]
        return float(np.mean(values))


def simulate(controller: Controller, names: Sequence[str], recipe: Recipe, curves: Curves) -> list[SimulatedStep]:
    """Every evaluation of a run of `recipe` with this controller, from its start to the end of its budget.

    Args:
        names: the datasets or units of the plan.
    """
    datasets = sorted({dataset_of(name) for name in names})
    curves.require(datasets)
    train = recipe.train
    own = dict.fromkeys(datasets, 0.0)
    found: list[SimulatedStep] = []
    for step in range(train.max_steps + 1):
        if step:
            for name, share in controller.weights.items():
                own[dataset_of(name)] += share * train.global_batch
        if step % train.eval_every and step not in (train.max_steps, controller.due_step):
            continue
        samples = step * train.global_batch
        scores = {name: _score(curves.loss(name, own[name])) for name in datasets}
        point = EvalPoint(step, samples, round(samples * curves.tokens_per_example), scores)
        decision = controller.observe(point)
        found.append(SimulatedStep(step, point.tokens, decision))
        if decision.reset:
            own = dict.fromkeys(datasets, 0.0)
    return found


def recorded_run(evaluations: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, float]]) -> RecordedRun:
    """From a run's `eval` events of the validation split, and each dataset's examples trained on by then."""
    losses: dict[str, list[float]] = {}
    counts: dict[str, list[float]] = {}
    for event, done in zip(evaluations, examples, strict=True):
        for name, score in event["datasets"].items():
            if score["loss"] is not None and np.isfinite(score["loss"]):
                losses.setdefault(name, []).append(float(score["loss"]))
                counts.setdefault(name, []).append(done.get(name, 0.0))
    last = evaluations[-1]
    return RecordedRun(counts, losses, last["tokens"] / last["samples"] if last["samples"] else 1.0)


def _read_off(run: RecordedRun, dataset: str, examples: float) -> float:
    # Between evaluations without examples of its own, the last loss is the one that its next example starts from.
    points = dict(zip(run.examples[dataset], run.losses[dataset], strict=True))
    return float(np.interp(examples, list(points), list(points.values())))


def _score(loss: float) -> DatasetScore:
    return DatasetScore(loss * TOKENS, TOKENS, 0, 1, 0)

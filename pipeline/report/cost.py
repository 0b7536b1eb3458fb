"""Time to target: what an arm pays until it is as good as the baseline, and what that baseline pays.

Definitions (method: the judge):

- Target of a dataset: the best validation loss that the baseline arm of the *same seed* reaches in its budget, times
  (1 + eps).
- Cost to target: the clock at the first evaluation at which *every* dataset's loss, taken at that same evaluation,
  meets its target. One model must be good at everything at once; a running best per dataset would add up the best
  moments of different models. The looser reading (the evaluation by which each dataset has met its target once, not
  necessarily together) is reported beside it as `each_once`: the baseline always has one, the strict cost it may lack.
- Secondary target: weighted (by validation examples) and macro token accuracy at or above the baseline's best.
- Every cost of an arm that uses affinity includes the probe. The probe's backward passes that end in no optimizer step
  are counted in steps too: probe samples / samples per step of that run.
- Speed-up = 1 - cost / cost of the baseline, on the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from pipeline.errors import ConfigError
from pipeline.report.averages import macro, weighted
from pipeline.report.runs import ORIGINAL, Evaluation, Experiment, ProbeCost, Run

Measure = Literal["samples", "tokens", "steps", "wall_s"]
Reading = Literal["together", "each_once"]
_T = TypeVar("_T")
MEASURES: tuple[Measure, ...] = ("samples", "tokens", "steps", "wall_s")


@dataclass(frozen=True)
class Cost:
    """What was used up. `tokens` (answer tokens) is None when a probe is included that did not count them."""

    samples: float
    tokens: float | None
    steps: float
    wall_s: float

    def get(self, measure: Measure) -> float | None:
        """One of `MEASURES` by name."""
        value: float | None = getattr(self, measure)
        return value

    def plus(self, other: Cost | None) -> Cost:
        """Both together; tokens are unknown when either's are."""
        if other is None:
            return self
        tokens = None if self.tokens is None or other.tokens is None else self.tokens + other.tokens
        return Cost(self.samples + other.samples, tokens, self.steps + other.steps, self.wall_s + other.wall_s)


@dataclass(frozen=True)
class TargetResult:
    """How one run did against the loss targets of its seed; a cost of None means "not reached"."""

    together: Cost | None
    each_once: Cost | None
    first_hit: dict[str, Cost | None]
    most_together: int

    def reading(self, name: Reading) -> Cost | None:
        """The cost under the strict (`together`) or the looser (`each_once`) reading."""
        return self.together if name == "together" else self.each_once

    @property
    def n_datasets(self) -> int:
        return len(self.first_hit)

    @property
    def n_reached(self) -> int:
        """Datasets that met their target at some evaluation."""
        return sum(cost is not None for cost in self.first_hit.values())


@dataclass(frozen=True)
class RunCosts:
    """All costs of one run. The accuracy costs are None when the accuracy was not reached."""

    target: TargetResult
    weighted_accuracy: Cost | None
    macro_accuracy: Cost | None
    own_stop: Cost
    probe: Cost | None


@dataclass(frozen=True)
class Judgement:
    """Targets of each seed and costs of each (arm, seed); seeds without a baseline run cannot be judged."""

    baseline: str
    eps: float
    targets: dict[int, dict[str, float]]
    costs: dict[tuple[str, int], RunCosts]
    unjudged: tuple[str, ...]

    def of_arm(self, arm: str) -> dict[int, RunCosts]:
        """Costs by seed."""
        return {seed: costs for (name, seed), costs in self.costs.items() if name == arm}


def judge(experiment: Experiment, *, baseline: str = "mix_all", eps: float = 0.02) -> Judgement:
    """Costs of all trained runs against the baseline of the same seed.

    Raises:
        ConfigError: eps is negative or not a number.
    """
    if not (math.isfinite(eps) and eps >= 0):
        raise ConfigError("eps must be a share, 0 or more", where={"option": "eps"}, got=eps, expected="e.g. 0.02")
    targets: dict[int, dict[str, float]] = {}
    costs: dict[tuple[str, int], RunCosts] = {}
    unjudged: list[str] = []
    for run in experiment.runs:
        if run.arm == ORIGINAL:
            continue
        reference = experiment.run(baseline, run.seed)
        if reference is None or not loss_targets(reference, eps) or not run.evaluations:
            unjudged.append(run.id)
            continue
        targets[run.seed] = loss_targets(reference, eps)
        costs[(run.arm, run.seed)] = run_costs(run, reference, targets[run.seed], experiment.probe)
    return Judgement(baseline, eps, targets, costs, tuple(unjudged))


def loss_targets(baseline: Run, eps: float) -> dict[str, float]:
    """Target loss of every dataset of the baseline; NaN where the baseline never had a finite loss (unreachable)."""
    names = {name for evaluation in baseline.evaluations for name in evaluation.scores}
    return {name: best_loss(baseline, name) * (1 + eps) for name in sorted(names)}


def best_loss(run: Run, dataset: str) -> float:
    """Lowest finite validation loss of a dataset over a run; NaN when there is none."""
    losses = [e.scores[dataset].loss for e in run.evaluations if dataset in e.scores]
    return min((loss for loss in losses if math.isfinite(loss)), default=math.nan)


def run_costs(run: Run, baseline: Run, targets: Mapping[str, float], probe: ProbeCost | None) -> RunCosts:
    """All costs of `run`, the probe included when the run uses affinity."""
    added = probe_share(run, probe)
    met = [datasets_met(evaluation, targets) for evaluation in run.evaluations]

    def cost_at(index: int | None) -> Cost | None:
        if index is None:
            return None
        at = run.evaluations[index]
        return Cost(at.samples, at.tokens, at.step, at.wall_s).plus(added)

    first_index = {name: _first(met, lambda names, name=name: name in names) for name in targets}  # type: ignore[misc]
    reached = [index for index in first_index.values() if index is not None]
    everyone = max(reached) if len(reached) == len(targets) else None
    target = TargetResult(
        together=cost_at(_first(met, lambda names: len(names) == len(targets))),
        each_once=cost_at(everyone),
        first_hit={name: cost_at(index) for name, index in first_index.items()},
        most_together=max(len(names) for names in met),
    )
    return RunCosts(
        target=target,
        weighted_accuracy=cost_at(_accuracy_hit(run, baseline, weighted)),
        macro_accuracy=cost_at(_accuracy_hit(run, baseline, macro)),
        own_stop=Cost(run.result.samples, run.result.tokens, run.result.steps, run.result.wall_s).plus(added),
        probe=added,
    )


def datasets_met(evaluation: Evaluation, targets: Mapping[str, float]) -> set[str]:
    """Datasets whose loss at this evaluation is at or below target; a NaN loss or target is never met."""
    return {
        name for name, target in targets.items() if name in evaluation.scores if evaluation.scores[name].loss <= target
    }


def probe_share(run: Run, probe: ProbeCost | None) -> Cost | None:
    """What the affinity cost, as this run pays it; None for runs that do not use affinity.

    A run says itself what its groups cost; `probe` stands in where it does not.

    Raises:
        ConfigError: the run uses affinity, but the experiment has no probe whose cost could be added.
    """
    if not run.uses_affinity:
        return None
    probe = run.affinity_cost or probe
    if probe is None:
        raise ConfigError(
            "an arm uses affinity, but what the affinity cost is not known",
            where={"run": run.id},
            expected="probe/probe.json in the experiment folder",
            hint="run `gst probe` into this experiment's folder",
        )
    samples_per_step = run.result.samples / run.result.steps if run.result.steps else math.nan
    return Cost(probe.samples, probe.tokens, probe.samples / samples_per_step, probe.wall_s)


def speed_up(cost: Cost | None, baseline: Cost | None, measure: Measure) -> float | None:
    """1 - cost / baseline cost; None when either was not reached, is unknown, or the baseline's is zero."""
    if cost is None or baseline is None:
        return None
    ours, theirs = cost.get(measure), baseline.get(measure)
    return None if ours is None or not theirs else 1 - ours / theirs


def _accuracy_hit(run: Run, baseline: Run, mean: Callable[..., float]) -> int | None:
    """Index of the first evaluation whose mean token accuracy is at or above the baseline's best; None if none is."""
    datasets = sorted({name for evaluation in baseline.evaluations for name in evaluation.scores})
    values = [mean(evaluation.scores, datasets, "token_accuracy") for evaluation in baseline.evaluations]
    best = max((value for value in values if math.isfinite(value)), default=math.nan)
    return _first(run.evaluations, lambda evaluation: mean(evaluation.scores, datasets, "token_accuracy") >= best)


def _first(values: Sequence[_T], condition: Callable[[_T], bool]) -> int | None:
    return next((index for index, value in enumerate(values) if condition(value)), None)

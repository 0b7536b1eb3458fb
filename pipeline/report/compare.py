"""Which arm is compared with which, on what, and what the paired seeds say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.report.averages import Field, datasets_with, macro, weighted
from pipeline.report.bootstrap import TwoLevel
from pipeline.report.cost import Judgement, Measure, Reading, speed_up
from pipeline.report.examples import RunExamples, two_level_difference
from pipeline.report.runs import Experiment, Run
from pipeline.report.stats import Paired, compare_pairs, holm

ACCURACY_METRICS = ("weighted token accuracy", "macro token accuracy")
SPEED_METRICS: dict[str, Measure] = {"speed-up in samples": "samples", "speed-up in wall time": "wall_s"}


@dataclass(frozen=True)
class Comparison:
    """`ours` against `theirs` on one metric (points of accuracy or of speed-up, both as shares of 1).

    `holm_p` is the t test's p adjusted over all comparisons on this metric. `left_out` seeds are those that cannot be
    compared, for speed-ups because an arm did not reach the target there: what is left flatters the slower arm.
    `two_level` is the interval over seeds and test examples; None for speed-ups, and when no examples were given.
    """

    metric: str
    ours: str
    theirs: str
    paired: Paired
    holm_p: float | None = None
    left_out: int = 0
    two_level: TwoLevel | None = None


def is_random(arm: str) -> bool:
    """Whether an arm is a random-groups control, by its name: `gst-random-3` is, `gst-random-order` has real groups."""
    return re.search(r"random-\d", arm) is not None


def affinity_arms(experiment: Experiment) -> list[str]:
    """Arms whose groups come from measured affinity."""
    return [arm for arm in experiment.arms if any(run.uses_affinity for run in experiment.of_arm(arm))]


def arm_pairs(experiment: Experiment, baseline: str) -> list[tuple[str, str]]:
    """Every trained arm against the baseline, and every affinity arm against every random control."""
    trained = [arm for arm in experiment.trained_arms if experiment.of_arm(arm)]
    pairs = [(arm, baseline) for arm in trained if arm != baseline] if baseline in trained else []
    randoms = [arm for arm in trained if is_random(arm)]
    return pairs + [(ours, theirs) for ours in affinity_arms(experiment) for theirs in randoms if ours != theirs]


def compare_arms(
    experiment: Experiment, judgement: Judgement, examples: Mapping[str, RunExamples] | None = None
) -> list[Comparison]:
    """All comparisons on all metrics, Holm-adjusted within each metric.

    Args:
        examples: of every run, from `examples.read_all`, for intervals that take test examples as a sample too.
    """
    pairs = arm_pairs(experiment, judgement.baseline)
    found: list[Comparison] = []
    for metric in (*ACCURACY_METRICS, *SPEED_METRICS):
        rows = [_compare(experiment, judgement, metric, ours, theirs, examples) for ours, theirs in pairs]
        adjusted = holm({f"{row.ours} {row.theirs}": row.paired.t_p for row in rows})
        found += [replace(row, holm_p=adjusted[f"{row.ours} {row.theirs}"]) for row in rows]
    return found


def final_average(run: Run, experiment: Experiment, kind: str, field: Field = "token_accuracy") -> float | None:
    """`weighted` or `macro` average of a test score over the datasets that have it; None when the run lacks one."""
    names = datasets_with(experiment, field)
    scores = run.result.scores
    if not names or any(name not in scores or scores[name].value(field) is None for name in names):
        return None
    mean = weighted if kind == "weighted" else macro
    return mean(scores, names, field)


def speed_ups(judgement: Judgement, arm: str, measure: Measure, reading: Reading = "together") -> dict[int, float]:
    """Speed-up over the baseline by seed, where both reached the target; exactly 0 for the baseline itself."""
    theirs = judgement.of_arm(judgement.baseline)
    values = {
        seed: speed_up(costs.target.reading(reading), theirs[seed].target.reading(reading), measure)
        for seed, costs in judgement.of_arm(arm).items()
        if seed in theirs
    }
    return {seed: value for seed, value in values.items() if value is not None}


def _compare(
    experiment: Experiment,
    judgement: Judgement,
    metric: str,
    ours: str,
    theirs: str,
    examples: Mapping[str, RunExamples] | None,
) -> Comparison:
    values: list[Mapping[int, float]] = []
    for arm in (ours, theirs):
        if metric in SPEED_METRICS:
            values.append(speed_ups(judgement, arm, SPEED_METRICS[metric]))
        else:
            kind = metric.split(" ")[0]
            averages = {run.seed: final_average(run, experiment, kind) for run in experiment.of_arm(arm)}
            values.append({seed: average for seed, average in averages.items() if average is not None})
    seeds = {run.seed for run in experiment.of_arm(ours)} & {run.seed for run in experiment.of_arm(theirs)}
    paired = compare_pairs(values[0], values[1])
    both = None
    if examples is not None and metric not in SPEED_METRICS:
        both = two_level_difference(experiment, examples, ours, (theirs,), kind=metric.split(" ")[0])
    return Comparison(metric, ours, theirs, paired, left_out=len(seeds) - paired.n, two_level=both)

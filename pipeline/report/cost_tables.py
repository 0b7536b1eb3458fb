"""The tables of costs: to the loss target, to the accuracy target, to each run's own stop; by arm and by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.report.averages import Field
from pipeline.report.compare import final_average, speed_ups
from pipeline.report.cost import MEASURES, Cost, Judgement, Measure, Reading, RunCosts
from pipeline.report.runs import Experiment, Run
from pipeline.report.stats import summarize
from pipeline.report.table import MISSING, Cell, Table, count, duration, percent, seed_cell, text

MEASURE_NAMES: dict[Measure, str] = {
    "samples": "samples",
    "tokens": "answer tokens",
    "steps": "steps",
    "wall_s": "training time",
}


def cost_table(experiment: Experiment, judgement: Judgement) -> Table:
    """Cost until all datasets meet their target at one evaluation, by arm."""
    return Table(
        "cost_to_target",
        f"Cost until every validation loss is within {percent(judgement.eps)} of {judgement.baseline}'s best",
        _COST_COLUMNS,
        _cost_rows(experiment, judgement, "together"),
        (
            f"Target of a dataset: {judgement.baseline}'s best validation loss with the same seed x "
            f"{1 + judgement.eps:g}. Reached: at one evaluation all datasets meet their target together. "
            "Datasets: how many met their target at some evaluation / at most at one evaluation together / of all "
            "(worst seed).",
            "Costs are means over the seeds that reached the target; where some did not, the mean flatters the arm. "
            f"Speed-up = 1 - cost / cost of {judgement.baseline}, same seed. An arm that uses affinity pays for the "
            "probe too; the column of the probe is that part, in samples.",
        ),
    )


def each_once_table(experiment: Experiment, judgement: Judgement) -> Table:
    """The looser reading: cost until each dataset has met its target once."""
    return Table(
        "cost_each_once",
        "Looser reading: cost until each dataset has met its target once, not necessarily at the same evaluation",
        _COST_COLUMNS,
        _cost_rows(experiment, judgement, "each_once"),
        (
            f"{judgement.baseline} always reaches this one. It favours an arm whose datasets are good in turn, never "
            "all at once; it is here because a target made of bests from different evaluations may be met by nobody.",
        ),
    )


_COST_COLUMNS = (
    "arm",
    "seeds",
    "datasets",
    "samples",
    "answer tokens",
    "steps",
    "time",
    "probe",
    "speed-up in samples",
    "speed-up in time",
)


def _cost_rows(experiment: Experiment, judgement: Judgement, reading: Reading) -> tuple[tuple[Cell, ...], ...]:
    rows = []
    for arm in experiment.trained_arms:
        by_seed = judgement.of_arm(arm)
        if not by_seed:
            rows.append((text(arm), *[MISSING] * (len(_COST_COLUMNS) - 1)))
            continue
        costs = {f"{arm}-s{seed}": c.target.reading(reading) for seed, c in by_seed.items()}
        rows.append(
            (
                text(arm),
                _reached(list(costs.values())),
                _datasets_reached(list(by_seed.values())),
                *(cost_cell(costs, measure) for measure in MEASURES),
                _probe_cell(list(by_seed.values())),
                speed_up_cell(judgement, arm, "samples", reading),
                speed_up_cell(judgement, arm, "wall_s", reading),
            )
        )
    return tuple(rows)


def cost_by_seed_table(experiment: Experiment, judgement: Judgement) -> Table:
    """The same per run: what every mean above was made of."""
    rows = []
    for run in experiment.runs:
        costs = judgement.costs.get((run.arm, run.seed))
        if costs is None:
            if run.arm in experiment.trained_arms:
                rows.append((text(run.id), *[MISSING] * 7))
            continue
        target = costs.target
        rows.append(
            (
                text(run.id),
                _datasets_reached([costs]),
                *(cost_cell({run.id: target.together}, measure) for measure in MEASURES),
                cost_cell({run.id: target.each_once}, "samples"),
                _probe_cell([costs]),
            )
        )
    names = tuple(MEASURE_NAMES[measure] for measure in MEASURES)
    columns = ("run", "datasets reached", *names, "each once: samples", "probe")
    return Table("cost_by_seed", "Cost to target, run by run", columns, tuple(rows))


def first_hit_table(experiment: Experiment, judgement: Judgement) -> Table:
    """Samples until each dataset alone met its target for the first time."""
    arms = experiment.trained_arms
    names = sorted({name for target in judgement.targets.values() for name in target})
    rows = []
    for name in names:
        targets = [target.get(name, math.nan) for target in judgement.targets.values()]
        cells = []
        for arm in arms:
            by_seed = judgement.of_arm(arm)
            hits = {f"{arm}-s{seed}": costs.target.first_hit.get(name) for seed, costs in by_seed.items()}
            cells.append(cost_cell(hits, "samples"))
        rows.append((text(name), seed_cell({str(i): t for i, t in enumerate(targets)}, digits=3), *cells))
    share = [text("datasets reached"), text("")]
    for arm in arms:
        reached = [c.target.n_reached / c.target.n_datasets for c in judgement.of_arm(arm).values()]
        share.append(Cell(percent(summarize(reached).mean, 0), summarize(reached).mean) if reached else MISSING)
    return Table(
        "first_hits",
        "Samples until a dataset first met its target (probe included)",
        ("dataset", "target loss", *arms),
        (*rows, tuple(share)),
        ("The evaluation interval limits how finely this is known.",),
        frozenset({len(rows)}),
    )


def accuracy_cost_table(experiment: Experiment, judgement: Judgement) -> Table:
    """Secondary target: validation token accuracy at or above the baseline's best."""
    rows = []
    for arm in experiment.trained_arms:
        by_seed = judgement.of_arm(arm)
        cells: list[Cell] = []
        for kind in ("weighted", "macro"):
            costs = {
                f"{arm}-s{seed}": c.weighted_accuracy if kind == "weighted" else c.macro_accuracy
                for seed, c in by_seed.items()
            }
            measures: tuple[Measure, ...] = ("samples", "wall_s")
            cells += (
                [_reached(list(costs.values())), *(cost_cell(costs, m) for m in measures)] if costs else [MISSING] * 3
            )
        rows.append((text(arm), *cells))
    names = [f"{kind}: {what}" for kind in ("weighted", "macro") for what in ("seeds", "samples", "training time")]
    return Table(
        "cost_to_accuracy",
        f"Cost until validation token accuracy is at or above {judgement.baseline}'s best",
        ("arm", *names),
        tuple(rows),
        ("Weighted by validation examples. A best of many evaluations is a high bar on noisy curves.",),
    )


def own_stop_table(experiment: Experiment, judgement: Judgement) -> Table:
    """What each arm used up until it stopped, beside the quality it had then."""
    rows = []
    for arm in experiment.trained_arms:
        by_seed, runs = judgement.of_arm(arm), experiment.of_arm(arm)
        if not runs:
            rows.append((text(arm), *[MISSING] * 7))
            continue
        costs = {f"{arm}-s{seed}": c.own_stop for seed, c in by_seed.items()}
        measures: tuple[Measure, ...] = ("samples", "steps", "wall_s")
        loss = _final_cell(experiment, runs, "macro", "loss", digits=3)
        quality = [_final_cell(experiment, runs, kind, "token_accuracy", scale=100) for kind in ("weighted", "macro")]
        reasons = ", ".join(sorted({str(run.info.get("stop_reason", "unknown")) for run in runs}))
        stops = [cost_cell(costs, measure) if costs else MISSING for measure in measures]
        rows.append((text(arm), text(reasons), *stops, loss, *quality))
    return Table(
        "own_stop",
        "Cost to own stop, with the quality at that point (test split)",
        (
            "arm",
            "stopped by",
            "samples",
            "steps",
            "training time",
            "macro loss",
            "weighted accuracy, %",
            "macro accuracy, %",
        ),
        tuple(rows),
        ("A cheap stop at lower quality is not a speed-up. Costs include the probe where affinity is used.",),
        text_columns=frozenset({0, 1}),
    )


def cost_cell(costs: Mapping[str, Cost | None], measure: Measure) -> Cell:
    """Mean over the runs that have a cost; `not reached` where no run has."""
    there = {run: cost for run, cost in costs.items() if cost is not None}
    if not there:
        return text("not reached", mark="not reached")
    values = {run: cost.get(measure) for run, cost in there.items()}
    known = {run: value for run, value in values.items() if value is not None}
    if len(known) < len(values):
        return Cell("unknown: probe", runs=tuple(there), mark="missing")
    if measure != "wall_s":
        return seed_cell(known, digits=0, expected=len(costs))
    return duration_cell(known, len(costs))


def duration_cell(seconds: Mapping[str, float], expected: int) -> Cell:
    """Mean and spread of a time over runs; says n when there are fewer than expected."""
    summary = summarize(list(seconds.values()))
    shown = duration(summary.mean)
    shown += f" ± {duration(summary.spread)}" if summary.spread is not None else ""
    shown += f" (n={summary.n})" if summary.n != expected else ""
    return Cell(shown, summary.mean, summary.spread, summary.n, tuple(seconds))


def _final_cell(
    experiment: Experiment, runs: Sequence[Run], kind: str, field: Field, *, scale: float = 1, digits: int = 1
) -> Cell:
    averages = {run.id: final_average(run, experiment, kind, field) for run in runs}
    there = {run: average for run, average in averages.items() if average is not None}
    return seed_cell(there, scale=scale, digits=digits, expected=len(runs))


def _reached(costs: Sequence[Cost | None]) -> Cell:
    hits = sum(cost is not None for cost in costs)
    return Cell(f"{hits} of {len(costs)}", hits, mark="" if hits else "not reached")


def _datasets_reached(costs: Sequence[RunCosts]) -> Cell:
    worst = min(costs, key=lambda c: (c.target.n_reached, c.target.most_together)).target
    return Cell(f"{worst.n_reached}/{worst.most_together}/{worst.n_datasets}", worst.n_reached)


def _probe_cell(costs: Sequence[RunCosts]) -> Cell:
    """Samples of the probe; the probe is one for all seeds."""
    probe = costs[0].probe
    return text("none") if probe is None else count(probe.samples)


def speed_up_cell(judgement: Judgement, arm: str, measure: Measure, reading: Reading) -> Cell:
    """Mean speed-up of an arm over the baseline, in percent; says which of the two did not get there."""
    values = speed_ups(judgement, arm, measure, reading)
    if arm == judgement.baseline:
        return text("baseline")
    if not values:
        ours = any(costs.target.reading(reading) for costs in judgement.of_arm(arm).values())
        return text(f"{judgement.baseline} not reached" if ours else "not reached", mark="not reached")
    runs = {f"{arm}-s{seed}": value for seed, value in values.items()}
    cell = seed_cell(runs, scale=100, digits=0, expected=len(judgement.of_arm(arm)))
    return Cell(f"{cell.text} %", cell.value, cell.spread, cell.n, cell.runs)

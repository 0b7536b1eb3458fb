"""The tables of costs: to the loss target, to the accuracy target, to each run's own stop; by arm and by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.report.compare import final_average, speed_ups
from pipeline.report.cost import MEASURES, Cost, Judgement, Measure, RunCosts
from pipeline.report.runs import Experiment
from pipeline.report.stats import summarize
from pipeline.report.table import MISSING, Cell, Table, duration, percent, seed_cell, text

MEASURE_NAMES: dict[Measure, str] = {
    "samples": "samples",
    "tokens": "answer tokens",
    "steps": "steps",
    "wall_s": "training time",
}


def cost_table(experiment: Experiment, judgement: Judgement) -> Table:
    """Cost until all datasets meet their target at one evaluation, by arm."""
    rows = []
    for arm in experiment.trained_arms:
        by_seed = judgement.of_arm(arm)
        if not by_seed:
            rows.append((text(arm), *[MISSING] * 10))
            continue
        together = {f"{arm}-s{seed}": costs.target.together for seed, costs in by_seed.items()}
        once = {f"{arm}-s{seed}": costs.target.each_once for seed, costs in by_seed.items()}
        rows.append(
            (
                text(arm),
                _reached(list(together.values())),
                _datasets_reached(list(by_seed.values())),
                *(cost_cell(together, measure) for measure in MEASURES),
                cost_cell({f"{arm}-s{seed}": costs.probe for seed, costs in by_seed.items()}, "samples", none="none"),
                _speed_up_cell(judgement, arm, "samples"),
                _speed_up_cell(judgement, arm, "wall_s"),
                cost_cell(once, "samples"),
            )
        )
    columns = (
        "arm",
        "seeds that reached",
        "datasets reached",
        *(MEASURE_NAMES[measure] for measure in MEASURES),
        "of it probe (samples)",
        "speed-up (samples)",
        "speed-up (time)",
        "each dataset once (samples)",
    )
    return Table(
        "cost_to_target",
        f"Cost until every dataset's validation loss is within {percent(judgement.eps, 0)} of {judgement.baseline}'s best",
        columns,
        tuple(rows),
        (
            f"Target of a dataset: {judgement.baseline}'s best validation loss with the same seed x "
            f"{1 + judgement.eps:g}. Reached: at one evaluation all datasets meet their target together. "
            "Datasets reached: met their target at some evaluation / at most at one evaluation together / of all "
            "(worst seed).",
            "Costs are means over the seeds that reached the target; where some did not, the mean flatters the arm. "
            f"Speed-up = 1 - cost / cost of {judgement.baseline}, same seed. Costs of an arm that uses affinity include "
            "the probe. 'Each dataset once' is the looser reading: not necessarily at the same evaluation.",
        ),
    )


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
                cost_cell({run.id: costs.probe}, "samples", none="none"),
            )
        )
    names = tuple(MEASURE_NAMES[measure] for measure in MEASURES)
    columns = ("run", "datasets reached", *names, "each dataset once (samples)", "of it probe (samples)")
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
    share = [text("datasets reached")] + [text("")]
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
        quality = [
            seed_cell({run.id: final_average(run, experiment, kind) for run in runs}, scale=100)
            for kind in ("weighted", "macro")
        ]
        loss = seed_cell({run.id: final_average(run, experiment, "macro", "loss") for run in runs}, digits=3)
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


def cost_cell(costs: Mapping[str, Cost | None], measure: Measure, *, none: str = "not reached") -> Cell:
    """Mean over the runs that have a cost; `none` where no run has."""
    there = {run: cost for run, cost in costs.items() if cost is not None}
    if not there:
        return text(none, mark="not reached" if none == "not reached" else "")
    values = {run: cost.get(measure) for run, cost in there.items()}
    known = {run: value for run, value in values.items() if value is not None}
    if len(known) < len(values):
        return Cell("unknown: probe", runs=tuple(there), mark="missing")
    if measure != "wall_s":
        return seed_cell(known, digits=0, expected=len(costs))
    summary = summarize(list(known.values()))
    shown = duration(summary.mean)
    shown += f" ± {duration(summary.spread)}" if summary.spread is not None else ""
    shown += f" (n={summary.n})" if summary.n != len(costs) else ""
    return Cell(shown, summary.mean, summary.spread, summary.n, tuple(known))


def _reached(costs: Sequence[Cost | None]) -> Cell:
    hits = sum(cost is not None for cost in costs)
    return Cell(f"{hits} of {len(costs)}", hits, mark="" if hits else "not reached")


def _datasets_reached(costs: Sequence[RunCosts]) -> Cell:
    worst = min(costs, key=lambda c: (c.target.n_reached, c.target.most_together)).target
    return Cell(f"{worst.n_reached} / {worst.most_together} / {worst.n_datasets}", worst.n_reached)


def _speed_up_cell(judgement: Judgement, arm: str, measure: Measure) -> Cell:
    values = speed_ups(judgement, arm, measure)
    if arm == judgement.baseline:
        return text("baseline")
    if not values:
        ours = any(costs.target.together for costs in judgement.of_arm(arm).values())
        return text(f"{judgement.baseline} not reached" if ours else "not reached", mark="not reached")
    runs = {f"{arm}-s{seed}": value for seed, value in values.items()}
    cell = seed_cell(runs, scale=100, digits=0, expected=len(judgement.of_arm(arm)))
    return Cell(f"{cell.text} %", cell.value, cell.spread, cell.n, cell.runs)

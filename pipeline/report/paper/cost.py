"""T6: what every arm pays until it is as good as the tuned baseline, in five currencies, and until it stops by itself.

Reference-system time = steps x measured seconds per step: an arm's seconds per step are the median over its runs, so
that a run which shared its machine with others does not decide, and the machine is named ("No Train No Gain").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from pipeline.report.compare import speed_ups
from pipeline.report.cost import Judgement, Measure, Reading
from pipeline.report.cost_tables import (
    MEASURE_NAMES,
    accuracy_cost_table,
    cost_by_seed_table,
    cost_table,
    duration_cell,
    each_once_table,
    own_stop_table,
)
from pipeline.report.paper.grid import GridResults, StudyResults
from pipeline.report.paper.shape import relabel, select, with_columns
from pipeline.report.runs import Experiment
from pipeline.report.stats import compare_pairs
from pipeline.report.table import MISSING, Cell, Table, seed_cell, text

REFERENCE = "reference time"


def cost_tables(grid: GridResults, machine: str) -> list[Table]:
    """T6 in parts: to target (both readings), speed-ups with intervals, to accuracy, to own stop, run by run."""
    wanted = grid.of_table("T6")
    if wanted is None:
        return []
    arms, study = wanted
    experiment, judgement = select(grid, study, arms)
    reference = reference_note(machine)
    made = [
        ("T6", _with_reference(cost_table(experiment, judgement), experiment, judgement, "together"), reference),
        ("T6-once", _with_reference(each_once_table(experiment, judgement), experiment, judgement, "each_once"), ""),
        ("T6-speed-up", speed_up_table(experiment, judgement, "together"), reference),
        ("T6-speed-up-once", speed_up_table(experiment, judgement, "each_once"), ""),
        ("T6-accuracy", accuracy_cost_table(experiment, judgement), ""),
        ("T6-own-stop", _with_reference(own_stop_table(experiment, judgement), experiment, judgement, None), ""),
        ("T6-runs", cost_by_seed_table(experiment, judgement), ""),
    ]
    return [_named(grid, study, name, table, note) for name, table, note in made]


def reference_note(machine: str) -> str:
    """What the reference system is."""
    return (
        "Reference time: steps x the median over an arm's runs of its measured seconds per step; reference system: "
        f"{machine}. Training time is the clock of the run itself, with whatever else the machine did."
    )


def seconds_per_step(experiment: Experiment, arm: str) -> float | None:
    """Median over an arm's runs; None without a run that took a step."""
    known = [run.result.wall_s / run.result.steps for run in experiment.of_arm(arm) if run.result.steps]
    return median(known) if known else None


def speed_up_table(experiment: Experiment, judgement: Judgement, reading: Reading) -> Table:
    """Speed-up over the baseline in every currency, with its 95 % t interval over seeds."""
    readers: dict[str, dict[str, dict[int, float]]] = {
        MEASURE_NAMES[measure]: {arm: speed_ups(judgement, arm, measure, reading) for arm in experiment.arms}
        for measure in _MEASURES
    }
    readers[REFERENCE] = {arm: _reference_speed_ups(experiment, judgement, arm, reading) for arm in experiment.arms}
    rows = []
    for arm in experiment.trained_arms:
        if not judgement.of_arm(arm):
            rows.append((text(arm), *[MISSING] * (2 * len(readers))))
            continue
        cells = []
        for by_arm in readers.values():
            cells += _speed_up_cells(by_arm[arm], arm, judgement)
        rows.append((text(arm), *cells))
    columns = [label for name in readers for label in (name, f"{name}: 95 % interval")]
    words = "every target at one evaluation" if reading == "together" else "each target once, the looser reading"
    return Table(
        "speed_up",
        f"Speed-up over {judgement.baseline} to target ({words}), in percent",
        ("arm", *columns),
        tuple(rows),
        (
            f"1 - cost / cost of {judgement.baseline} with the same seed, the probe included; negative: slower. The "
            "interval is the paired t interval over the seeds where both got there; two seeds make it very wide, one "
            "makes none.",
        ),
    )


_MEASURES: tuple[Measure, ...] = ("samples", "tokens", "steps", "wall_s")


def _speed_up_cells(by_seed: Mapping[int, float], arm: str, judgement: Judgement) -> list[Cell]:
    if arm == judgement.baseline:
        return [text("baseline"), text("-")]
    if not by_seed:
        return [text("not reached", mark="not reached"), text("-")]
    runs = {f"{arm}-s{seed}": value for seed, value in by_seed.items()}
    cell = seed_cell(runs, scale=100, digits=0, expected=len(judgement.of_arm(arm)))
    interval = compare_pairs(by_seed, dict.fromkeys(by_seed, 0.0)).interval
    shown = "-" if interval is None else f"{100 * interval[0]:+.0f} .. {100 * interval[1]:+.0f}"
    return [cell, text(shown)]


def _reference_costs(
    experiment: Experiment, judgement: Judgement, arm: str, reading: Reading | None
) -> dict[int, float | None]:
    """Reference-system seconds by seed: to target, or to own stop when `reading` is None; None: not reached."""
    pace = seconds_per_step(experiment, arm)
    costs = {
        seed: c.own_stop if reading is None else c.target.reading(reading) for seed, c in judgement.of_arm(arm).items()
    }
    return {seed: None if cost is None or pace is None else cost.steps * pace for seed, cost in costs.items()}


def _reference_speed_ups(experiment: Experiment, judgement: Judgement, arm: str, reading: Reading) -> dict[int, float]:
    ours = _reference_costs(experiment, judgement, arm, reading)
    theirs = _reference_costs(experiment, judgement, judgement.baseline, reading)
    return {
        seed: 1 - cost / other
        for seed, cost in ours.items()
        if cost is not None and math.isfinite(cost) and (other := theirs.get(seed))
    }


def _with_reference(table: Table, experiment: Experiment, judgement: Judgement, reading: Reading | None) -> Table:
    cells = []
    for arm in experiment.trained_arms:
        costs = _reference_costs(experiment, judgement, arm, reading)
        pace = seconds_per_step(experiment, arm)
        there = {f"{arm}-s{seed}": cost for seed, cost in costs.items() if cost is not None}
        if not costs or pace is None:
            cells.append([MISSING, MISSING])
            continue
        time = duration_cell(there, len(costs)) if there else text("not reached", mark="not reached")
        cells.append([time, Cell(f"{pace:.2f}", pace)])
    return with_columns(table, (REFERENCE, "seconds per step"), cells)


def _named(grid: GridResults, study: StudyResults, name: str, table: Table, note: str) -> Table:
    notes = [*table.notes, note] if note else list(table.notes)
    named = relabel(grid, study, table, name=name, title=f"T6. {table.title}", notes=notes)
    if name != "T6-runs":
        return named
    # Its rows are runs, and a row's name is what the other tables call that run.
    rows = tuple((replace(row[0], text=f"{study.name}/{row[0].text}"), *row[1:]) for row in named.rows)
    return replace(named, rows=rows)

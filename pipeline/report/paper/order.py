"""T3: does the order matter in which groups enter? One row an order, quality beside cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.report.cost import Judgement
from pipeline.report.cost_tables import cost_cell, speed_up_cell
from pipeline.report.paper.grid import GridResults, StudyResults
from pipeline.report.paper.published import NOTE, ORDERS
from pipeline.report.paper.shape import relabel, select
from pipeline.report.runs import Experiment
from pipeline.report.table import MISSING, Cell, Table, text
from pipeline.report.tables import arm_cells, sound_average, spread_note

COLUMNS = (
    "arm",
    "weighted token accuracy, %",
    "macro token accuracy, %",
    "macro exact match, %",
    "seeds at target",
    "samples to target",
    "speed-up in samples",
    "each once: samples",
    "each once: speed-up",
)
COST_NOTE = (
    "Samples to target include the probe where an arm uses affinity; not reached: in no seed within the budget. Each "
    "once: until each dataset has met its target at some evaluation, a looser reading. Costs are means over the seeds "
    "that got there."
)


def order_table(grid: GridResults) -> list[Table]:
    """T3; nothing when the grid does not have it."""
    wanted = grid.of_table("T3")
    if wanted is None:
        return []
    arms, study = wanted
    table = quality_and_cost(grid, study, arms, name="T3", title="T3. Order in which the groups enter", notes=(NOTE,))
    published = [text(ORDERS.get(arm, "-"), mark="reference") for arm in arms]
    rows = tuple(
        (_order_name(arm, row[0]), *row[1:], cell) for arm, row, cell in zip(arms, table.rows, published, strict=True)
    )
    columns = (*table.columns, "published, other data and model")
    return [replace(table, columns=columns, rows=rows, text_columns=frozenset({0, len(columns) - 1}))]


def quality_and_cost(
    grid: GridResults, study: StudyResults, arms: Sequence[str], *, name: str, title: str, notes: Sequence[str] = ()
) -> Table:
    """One row an arm: accuracy at the end, cost to target under both readings, speed-up over the baseline."""
    experiment, judgement = select(grid, study, arms)
    rows = _rows(experiment, judgement)
    every = (spread_note(experiment), COST_NOTE, *notes)
    table = Table(name, title, COLUMNS, rows, every)
    return relabel(grid, study, table, name=name, title=title)


def _rows(experiment: Experiment, judgement: Judgement) -> tuple[tuple[Cell, ...], ...]:
    qualities = [
        arm_cells(experiment, lambda run, k=kind, f=field: sound_average(run, experiment, k, f))  # type: ignore[misc]
        for kind, field in (("weighted", "token_accuracy"), ("macro", "token_accuracy"), ("macro", "exact_match"))
    ]
    rows = []
    for number, arm in enumerate(experiment.arms):
        by_seed = judgement.of_arm(arm)
        together = {f"{arm}-s{seed}": costs.target.together for seed, costs in by_seed.items()}
        once = {f"{arm}-s{seed}": costs.target.each_once for seed, costs in by_seed.items()}
        hits = sum(cost is not None for cost in together.values())
        costs = [
            Cell(f"{hits} of {len(together)}", hits, runs=tuple(together), mark="" if hits else "not reached"),
            cost_cell(together, "samples"),
            speed_up_cell(judgement, arm, "samples", "together"),
            cost_cell(once, "samples"),
            speed_up_cell(judgement, arm, "samples", "each_once"),
        ]
        rows.append((text(arm), *(cells[number] for cells in qualities), *(costs if by_seed else [MISSING] * 5)))
    return tuple(rows)


def _order_name(arm: str, shown: Cell) -> Cell:
    return replace(shown, text="progressive (GST-G3)") if arm == "gst-g3" else shown

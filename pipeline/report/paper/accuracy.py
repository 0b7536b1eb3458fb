"""T1, T2 and T7: token accuracy by dataset and arm, on all data, on little data, and for the second paper's regimes."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.averages import macro
from pipeline.report.cost import Judgement
from pipeline.report.cost_tables import cost_cell
from pipeline.report.paper.grid import GridResults, StudyResults
from pipeline.report.paper.metrics import metrics_table
from pipeline.report.paper.published import FULL_DATA, LOW_RESOURCE, NOTE, SECOND_PAPER_NOTE, published_row
from pipeline.report.paper.shape import relabel, select, with_rows
from pipeline.report.runs import Experiment, Run
from pipeline.report.table import Cell, Table, text
from pipeline.report.tables import accuracy_table, arm_cells

_TITLES = {
    "T1": "T1. Full data: token accuracy on the test split, in percent",
    "T2": "T2. Low resource: token accuracy on the test split, in percent",
    "T7": "T7. Curricula of the second paper: token accuracy on the test split, in percent, and what it cost",
}
_PUBLISHED = {"T1": FULL_DATA, "T2": LOW_RESOURCE}


def accuracy_tables(grid: GridResults, name: str) -> list[Table]:
    """One of T1, T2, T7 with its companion of generation metrics; none when the grid does not have it."""
    wanted = grid.of_table(name)
    if wanted is None:
        return []
    arms, study = wanted
    experiment, judgement = select(grid, study, arms)
    table = with_rows(accuracy_table(experiment), [_loss_row(experiment)])
    notes = [*table.notes, "Macro loss: the plain mean over datasets; lower is better."]
    if name in _PUBLISHED:
        table = with_rows(table, [published_row(_PUBLISHED[name], arms)])
        notes.append(NOTE)
    if name == "T2":
        notes.insert(0, _low_note(grid, study))
    if name == "T7":
        table = with_rows(table, _cost_rows(experiment, judgement, arms))
        notes += [_COST_NOTE, SECOND_PAPER_NOTE]
    companion = metrics_table(experiment)
    return [
        relabel(grid, study, table, name=name, title=_TITLES[name], notes=notes),
        relabel(grid, study, companion, name=f"{name}-metrics", title=f"{name}. {companion.title}"),
    ]


_COST_NOTE = (
    "Cost to target as in T6: samples until every validation loss is within the target at one evaluation, and until "
    "each dataset has met its own once; cost to own stop: what the whole run used up."
)


def _loss_row(experiment: Experiment) -> tuple[Cell, ...]:
    def value(run: Run) -> float | None:
        whole = all(name in run.result.scores for name in experiment.datasets)
        return macro(run.result.scores, experiment.datasets, "loss") if whole else None

    cells = arm_cells(experiment, value, scale=1.0, digits=3, highest=False)
    return (text("macro loss, nats per answer token"), *cells)


def _cost_rows(experiment: Experiment, judgement: Judgement, arms: Sequence[str]) -> list[tuple[Cell, ...]]:
    rows = []
    labels = ("samples to target", "samples until each met its own once", "samples to own stop")
    for number, label in enumerate(labels):
        cells = []
        for arm in arms:
            found = {
                f"{arm}-s{seed}": (c.target.together, c.target.each_once, c.own_stop)[number]
                for seed, c in judgement.of_arm(arm).items()
            }
            cells.append(cost_cell(found, "samples") if found else text("missing", mark="missing"))
        rows.append((text(label), *cells))
    return rows


def _low_note(grid: GridResults, study: StudyResults) -> str:
    overrides = ", ".join(grid.spec.studies[study.name].overrides) or "no overrides"
    return f"What makes this study low in resources: {overrides}; the same examples for every arm and seed."

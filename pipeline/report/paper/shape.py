"""Cutting a study to a table's arms, and giving a table of the report the paper's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.report.cost import Judgement
from pipeline.report.paper.grid import GridResults, StudyResults
from pipeline.report.runs import Experiment
from pipeline.report.table import Cell, Table


def select(grid: GridResults, study: StudyResults, arms: Sequence[str]) -> tuple[Experiment, Judgement]:
    """A study cut to some arms, in their order; rows of a study without runs are the datasets of the others."""
    whole = study.experiment
    runs = tuple(run for run in whole.runs if run.arm in arms)
    experiment = replace(whole, arms=tuple(arms), runs=runs, datasets=whole.datasets or grid.datasets)
    costs = {key: cost for key, cost in study.judgement.costs.items() if key[0] in arms}
    return experiment, replace(study.judgement, costs=costs)


def titled(grid: GridResults, experiment: Experiment, judgement: Judgement) -> tuple[Experiment, Judgement]:
    """The same with the paper's names of arms, for figures."""
    arms = tuple(grid.title(arm) for arm in experiment.arms)
    runs = tuple(replace(run, arm=grid.title(run.arm)) for run in experiment.runs)
    costs = {(grid.title(arm), seed): cost for (arm, seed), cost in judgement.costs.items()}
    return replace(experiment, arms=arms, runs=runs), replace(
        judgement, baseline=grid.title(judgement.baseline), costs=costs
    )


def relabel(
    grid: GridResults,
    study: StudyResults,
    table: Table,
    *,
    name: str,
    title: str,
    notes: Sequence[str] | None = None,
) -> Table:
    """The table under the paper's name, arms under theirs, and every run with its study."""

    baseline = study.judgement.baseline

    def words(value: str) -> str:
        return value.replace(baseline, grid.title(baseline))

    def cell(found: Cell, first: bool) -> Cell:
        shown = grid.title(found.text) if first and found.text in study.experiment.arms else words(found.text)
        return replace(found, text=shown, runs=tuple(f"{study.name}/{run}" for run in found.runs))

    rows = tuple(tuple(cell(found, number == 0) for number, found in enumerate(row)) for row in table.rows)
    columns = tuple(grid.title(c) if c in study.experiment.arms else c for c in table.columns)
    said = tuple(words(note) for note in (table.notes if notes is None else notes))
    return replace(table, name=name, title=words(title), columns=columns, rows=rows, notes=said)


def with_rows(table: Table, rows: Sequence[tuple[Cell, ...]]) -> Table:
    """The table with more rows below a line."""
    return replace(table, rows=(*table.rows, *rows), rule_before=table.rule_before | {len(table.rows)})


def with_columns(
    table: Table, names: Sequence[str], cells: Sequence[Sequence[Cell]], *, words: Sequence[int] = ()
) -> Table:
    """The table with more columns on its right; `words` are those of the new ones that hold words, from 0."""
    first = len(table.columns)
    rows = tuple((*row, *more) for row, more in zip(table.rows, cells, strict=True))
    text_columns = table.text_columns | {first + number for number in words}
    return replace(table, columns=(*table.columns, *names), rows=rows, text_columns=text_columns)

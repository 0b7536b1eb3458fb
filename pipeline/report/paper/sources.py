"""Where the grid's numbers come from: every run of every study, what is missing or not used, and the data."""

from __future__ import annotations

from dataclasses import replace

from pipeline.report.paper.grid import GridResults
from pipeline.report.provenance import caveats, data_table, problems_table, runs_table
from pipeline.report.runs import Experiment
from pipeline.report.table import Cell, Table, text
from pipeline.report.trace import run_anchor


def run_sources(grid: GridResults, search: Experiment) -> Table:
    """One row a run, with the anchor that the tables' lists of runs point at."""
    tables = [(study.name, runs_table(study.experiment)) for study in grid.studies.values()]
    tables += [(search.name, runs_table(search))]
    rows = []
    for name, table in tables:
        for row in table.rows:
            shown = f"{name}/{row[0].text}"
            rows.append((replace(row[0], text=shown, anchor=run_anchor(shown)), *row[1:]))
    return replace(tables[0][1], title="Runs behind every number above", rows=tuple(rows))


def problems(grid: GridResults) -> Table:
    """Missing, excluded and unpriced runs of all studies, each with its reason."""
    rows: list[tuple[Cell, ...]] = []
    for study in grid.studies.values():
        unpriced = {item.run for item in study.unpriced}
        for row in problems_table(study.experiment, study.judgement, study.examples).rows:
            if row[0].text not in unpriced:
                rows.append((replace(row[0], text=f"{study.name}/{row[0].text}"), *row[1:]))
        rows += [(text(f"{study.name}/{i.run}"), text("no cost"), text(i.reason)) for i in study.unpriced]
    notes = () if rows else ("None: every run of the grid is there and used.",)
    columns = ("run", "state", "reason")
    return Table(
        "problems", "Missing and excluded runs", columns, tuple(rows), notes, text_columns=frozenset({0, 1, 2})
    )


def data_sources(grid: GridResults) -> list[Table]:
    """Each study's data, where it has runs."""
    return [
        replace(data_table(study.experiment), name=f"data-{study.name}", title=f"Data of study `{study.name}`")
        for study in grid.studies.values()
        if study.experiment.runs
    ]


def grid_caveats(grid: GridResults) -> list[str]:
    """What speaks against believing these tables: every study's own caveats once, and the grid's."""
    found: list[str] = []
    for study in grid.studies.values():
        if study.experiment.runs:
            found += caveats(study.experiment, study.judgement)
    found = list(dict.fromkeys(found))
    found.append(
        "The base model is small and its corpora are made for this repository unless the recipe says otherwise: what "
        "holds here need not hold for a 13B model on real corpora, and the published numbers are no yardstick."
    )
    if not grid.spec.tuned.chosen:
        found.insert(0, f"{grid.spec.baseline} was not tuned: no search of this grid is finished.")
    return found


def problem_sentence(table: Table) -> str:
    """How many runs are missing or not used, and how many lack a part; nothing to say where there are none."""
    states = [row[1].text for row in table.rows]
    if not states:
        return ""
    missing, excluded = states.count("missing"), states.count("excluded")
    rest = len(states) - missing - excluded
    more = f"; {rest} lack a part (cost, or single test examples)" if rest else ""
    return f"{missing} run(s) of the grid are missing and {excluded} are excluded{more}. The list is below."

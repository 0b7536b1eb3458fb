"""How the baseline was tuned: every candidate of the search with its validation score, and the one that was taken."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from pipeline.report.paper.grid import SEARCH, GridResults
from pipeline.report.runs import Experiment, Run, read_run
from pipeline.report.table import MISSING, Cell, Table, text


def read_search(folder: Path) -> Experiment:
    """The finished runs of the search; they are in no table of results, and here so that they can be traced."""
    places = sorted(path.parent for path in (folder / SEARCH).glob("arms/*/run.json"))
    runs = tuple(run for place in places if isinstance(run := read_run(place), Run))
    datasets = tuple(sorted({name for run in runs for name in run.result.scores}))
    return Experiment(SEARCH, tuple(run.arm for run in runs), tuple({run.seed for run in runs}), datasets, runs)


def tuning_table(grid: GridResults) -> Table:
    """One row a candidate, one block an axis of the search; the chosen candidate is marked."""
    search, tuned = grid.spec.search, grid.spec.tuned
    rows: list[tuple[Cell, ...]] = []
    rules = set()
    for number, (axis_name, axis) in enumerate(search.axes.items()):
        if rows:
            rules.add(len(rows))
        for name, overrides in axis.candidates.items():
            loss = tuned.scores.get(f"{axis_name}: {name}")
            # A later axis asks nothing anew for the candidate that changes nothing: its score is the axis before's.
            runs = (f"{SEARCH}/{axis_name}-{name}-s{search.seed}",) if overrides or not number else ()
            chosen = tuned.chosen.get(axis_name) == name
            rows.append((text(axis_name), text(name), text(", ".join(overrides) or "-"), _loss(loss, runs, chosen)))
    columns = ("question", "candidate", "what it changes", "macro validation loss at the end")
    return Table(
        "tuning",
        f"How {grid.title(grid.spec.baseline)} was found: the search",
        columns,
        tuple(rows),
        (
            "Each question is asked with the answers to those before it. Every candidate has the whole budget of any "
            f"run of these tables and a seed of its own ({search.seed}); it is chosen by validation loss alone, never "
            "by a test score. What is chosen holds for all arms whose definition it does not contradict. One seed a "
            "candidate: neighbours in this table may differ by noise alone.",
        )
        if rows
        else ("The grid searched for nothing: the baseline is as its recipe has it.",),
        frozenset(rules),
        frozenset({0, 1, 2}),
    )


def tuning_sentence(grid: GridResults) -> str:
    """What was chosen, or that nothing was."""
    title, chosen = grid.title(grid.spec.baseline), grid.spec.tuned.chosen
    if not chosen:
        return f"{title}: no search was finished. Beating an untuned baseline shows nothing."
    words = ", ".join(f"{axis}: {name}" for axis, name in chosen.items())
    unfinished = [axis for axis in grid.spec.search.axes if axis not in chosen]
    more = f" Not finished: {', '.join(unfinished)}." if unfinished else ""
    return f"{title} was tuned on validation loss before anything was compared with it; chosen: {words}.{more}"


def _loss(loss: float | None, runs: tuple[str, ...], chosen: bool) -> Cell:
    if loss is None:
        return MISSING
    if not math.isfinite(loss):
        return Cell("NaN", math.nan, n=1, runs=runs, mark="nan")
    cell = Cell(f"{loss:.4f}", loss, n=1, runs=runs)
    return replace(cell, text=f"{cell.text} (chosen)", mark="best") if chosen else cell

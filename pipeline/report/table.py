"""One table model; the renderers in `render.py` turn it into markdown, HTML, CSV, LaTeX and terminal text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.report.stats import summarize

Mark = Literal["", "best", "missing", "nan", "not reached", "reference"]


@dataclass(frozen=True)
class Cell:
    """What one cell shows (`text`) and the numbers behind it (`value`, `spread`, `n`) with the runs they come from.

    `anchor` is the id by which a page's links find a row; only the first cell of a row has one.
    """

    text: str
    value: float | None = None
    spread: float | None = None
    n: int | None = None
    runs: tuple[str, ...] = ()
    mark: Mark = ""
    anchor: str = ""


@dataclass(frozen=True)
class Table:
    """`rows` are as wide as `columns`; the first column names the row. `rule_before` are rows with a line above."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    rule_before: frozenset[int] = field(default_factory=frozenset)
    # Columns of words; all others hold numbers and are aligned right.
    text_columns: frozenset[int] = frozenset({0})

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.name


MISSING = Cell("missing", mark="missing")


def text(value: object, *, mark: Mark = "") -> Cell:
    """A cell of words."""
    return Cell(str(value), mark=mark)


def count(value: float, runs: Sequence[str] = ()) -> Cell:
    """A whole number with thousands separators."""
    return Cell(f"{value:,.0f}", value, runs=tuple(runs))


def seed_cell(values: dict[str, float], *, scale: float = 1.0, digits: int = 1, expected: int | None = None) -> Cell:
    """Mean and spread over runs: `61.2 ± 0.4`.

    Args:
        values: value of each run, by run id. NaN values are marked and never averaged away.
        expected: number of runs the cell should have; the cell says n when it has fewer.
    """
    if not values:
        return MISSING
    bad = [run for run, value in values.items() if not math.isfinite(value)]
    if bad:
        share = "" if len(bad) == len(values) == 1 else f" in {len(bad)} of {len(values)}"
        return Cell(f"NaN{share}", math.nan, n=len(values), runs=tuple(values), mark="nan")
    summary = summarize([scale * value for value in values.values()])
    shown = f"{summary.mean:,.{digits}f}"
    if summary.spread is not None:
        shown += f" ± {summary.spread:,.{digits}f}"
    if expected is not None and summary.n != expected:
        shown += f" (n={summary.n})"
    return Cell(shown, summary.mean, summary.spread, summary.n, tuple(values))


def mark_best(cells: Sequence[Cell], *, highest: bool = True) -> list[Cell]:
    """Mark the best of one row's comparable cells (as shown: ties by the printed number are all marked)."""
    comparable = [cell for cell in cells if cell.mark == "" and cell.value is not None and math.isfinite(cell.value)]
    if len(comparable) < 2:
        return list(cells)
    best = (max if highest else min)(cell.value for cell in comparable if cell.value is not None)
    shown = {cell.text.split(" ")[0] for cell in comparable if cell.value == best}
    return [
        Cell(cell.text, cell.value, cell.spread, cell.n, cell.runs, "best")
        if cell in comparable and cell.text.split(" ")[0] in shown
        else cell
        for cell in cells
    ]


def duration(seconds: float) -> str:
    """`42.5 s`, `12 min 05 s`, `3 h 07 min`."""
    if not math.isfinite(seconds):
        return "NaN"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"

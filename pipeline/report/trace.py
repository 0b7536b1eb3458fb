"""From a number to its runs: which runs stand behind a table's cells, said once for what shares them.

A table's columns (arms as columns) or its rows (arms as rows) mostly share their runs; the cells that do not are named.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

from pipeline.report.table import Table


@dataclass(frozen=True)
class Trace:
    """`runs` stand behind the cells that `label` names."""

    label: str
    runs: tuple[str, ...]


def run_anchor(run: str) -> str:
    """HTML id of a run's row; different runs get different ids, whatever characters their names have."""
    return "run-" + re.sub(r"[^A-Za-z0-9_-]", lambda match: f".{ord(match[0]):x}.", run)


def traces(table: Table) -> list[Trace]:
    """The runs behind every cell that has some, by column or by row, whichever is said in fewer lines."""
    by_column, by_row = _lines(table, by_row=False), _lines(table, by_row=True)
    return by_row if len(by_row) < len(by_column) else by_column


def _lines(table: Table, *, by_row: bool) -> list[Trace]:
    """One line for the runs most cells of a column (row) share, and one for each set that deviates from it."""
    lines: dict[int, list[tuple[int, tuple[str, ...]]]] = defaultdict(list)
    for number, row in enumerate(table.rows):
        for column, cell in enumerate(row):
            if column and cell.runs:
                here, across = (number, column) if by_row else (column, number)
                lines[here].append((across, cell.runs))
    found = []
    for here, cells in sorted(lines.items()):
        name = _name(table, here, by_row)
        sets = Counter(runs for _, runs in cells).most_common()
        found.append(Trace(name, sets[0][0]))
        for runs, _ in sets[1:]:
            others = ", ".join(_name(table, across, not by_row) for across, here_runs in cells if here_runs == runs)
            found.append(Trace(f"{name}: {others}", runs))
    return found


def _name(table: Table, number: int, is_row: bool) -> str:
    return table.rows[number][0].text if is_row else table.columns[number]

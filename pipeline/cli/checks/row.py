"""One line of `gst doctor` and `gst validate`, and how such lines are shown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

State = Literal["ok", "warn", "bad"]
_COLOURS = {"ok": "green", "warn": "yellow", "bad": "red"}


@dataclass(frozen=True)
class Row:
    """One check.

    Attributes:
        check: what was looked at.
        state: `bad`: a run would fail, or could not start; `warn`: it would run worse, or some feature would fail.
        found: what there is.
        advice: what to do about it; empty where nothing is to be done.
    """

    check: str
    state: State
    found: str
    advice: str = ""


def worst(rows: Iterable[Row]) -> State:
    states = {row.state for row in rows}
    return "bad" if "bad" in states else "warn" if "warn" in states else "ok"


def table_of(rows: Iterable[Row], title: str) -> Table:
    """The rows for a terminal, states in colour."""
    table = Table(title=title, title_justify="left")
    for column in ("check", "state", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            escape(row.check), f"[{_COLOURS[row.state]}]{row.state}[/]", escape(row.found), escape(row.advice)
        )
    return table


def show(rows: list[Row], title: str, *, as_json: bool) -> None:
    """Print rows as a table, or as one JSON object with the worst state of all."""
    if as_json:
        print(json.dumps({"state": worst(rows), "rows": [asdict(row) for row in rows]}, indent=1))
    else:
        Console().print(table_of(rows, title))

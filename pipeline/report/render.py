"""Renderers of the table model. Each escapes what its format treats as markup: names come from users' data."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Collection
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from pipeline.report.table import Cell, Table
from pipeline.report.trace import run_anchor, traces

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "≥": r"$\geq$",
}
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~#])")


def to_text(table: Table, width: int = 120) -> str:
    """Plain text for a terminal; a mark that is bold elsewhere is a `*` here. Wider where numbers would not fit."""
    rich = RichTable(title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(table.columns):
        justify: Literal["left", "right"] = "left" if number in table.text_columns else "right"
        least = _least_width(table, number)
        rich.add_column(Text(column), justify=justify, no_wrap=number == 0, min_width=least, overflow="fold")
    for number, row in enumerate(table.rows):
        if number in table.rule_before:
            rich.add_section()
        rich.add_row(*(Text(cell.text + ("*" if cell.mark == "best" else "")) for cell in row))
    stream = io.StringIO()
    needed = sum(_least_width(table, number) + 4 for number in range(len(table.columns)))
    console = Console(file=stream, width=max(width, needed), color_system=None, legacy_windows=False)
    console.print(rich)
    for note in table.notes:
        console.print(Text(note))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _least_width(table: Table, number: int) -> int:
    """What a column needs so that no word is cut and no number broken; a mark may follow."""
    cells = [row[number] for row in table.rows]
    whole = [cell.text for cell in cells if cell.value is not None and number not in table.text_columns]
    words = [word for text in (*(cell.text for cell in cells), table.columns[number]) for word in text.split()]
    return max((len(part) + 1 for part in (*whole, *words)), default=1)


def to_markdown(table: Table) -> str:
    """A GitHub-flavoured table below its title."""

    def line(parts: list[str]) -> str:
        return "| " + " | ".join(parts) + " |"

    rule = [":--" if number in table.text_columns else "--:" for number in range(len(table.columns))]
    lines = [f"### {escape_markdown(table.title)}", "", line([escape_markdown(c) for c in table.columns]), line(rule)]
    for row in table.rows:
        shown = [escape_markdown(cell.text) for cell in row]
        lines.append(line([f"**{s}**" if cell.mark == "best" else s for s, cell in zip(shown, row, strict=True)]))
    for note in table.notes:
        lines += ["", escape_markdown(note)]
    behind = "; ".join(f"{trace.label}: {' '.join(trace.runs)}" for trace in traces(table))
    if behind:
        lines += ["", escape_markdown(f"Runs behind the cells: {behind}.")]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """The numbers, not their roundings; columns with statistics get `sd`, `n` and `runs` columns beside them."""
    detailed = [
        any(row[number].n is not None or row[number].runs for row in table.rows) for number in range(len(table.columns))
    ]
    header: list[str] = []
    for column, more in zip(table.columns, detailed, strict=True):
        header += [column, f"{column} sd", f"{column} n", f"{column} runs"] if more else [column]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        values: list[object] = []
        for cell, more in zip(row, detailed, strict=True):
            values.append(cell.text if cell.value is None else repr(cell.value))
            if more:
                values += ["" if cell.spread is None else repr(cell.spread), "" if cell.n is None else cell.n]
                values.append(" ".join(cell.runs))
        writer.writerow(values)
    return stream.getvalue()


def to_html(table: Table, anchors: Collection[str] = ()) -> str:
    """A `figure` with a table that scrolls sideways on its own and can be reached by keyboard.

    Args:
        anchors: ids that the page has; a run with one of them is a link in the list of runs behind the cells.
    """
    identity = html.escape(table.name)
    head = "".join(f'<th scope="col"{_kind(table, n)}>{html.escape(c)}</th>' for n, c in enumerate(table.columns))
    body = "".join(_html_row(table, number) for number in range(len(table.rows)))
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    return (
        f'<figure class="table" id="{identity}">\n<figcaption id="{identity}-title">{html.escape(table.title)}'
        f'</figcaption>\n<div class="scroll" role="region" tabindex="0" aria-labelledby="{identity}-title">\n'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
        f'<div class="notes">{notes}</div>\n{_html_runs(table, anchors)}</figure>\n'
    )


def _html_runs(table: Table, anchors: Collection[str]) -> str:
    """The runs behind the cells, folded: it opens by keyboard, mouse and touch alike."""

    def run(name: str) -> str:
        shown = f"<code>{html.escape(name)}</code>"
        anchor = run_anchor(name)
        return f'<a href="#{html.escape(anchor)}">{shown}</a>' if anchor in anchors else shown

    rows = "".join(
        f"<dt>{html.escape(trace.label)}</dt><dd>{' '.join(run(name) for name in trace.runs)}</dd>\n"
        for trace in traces(table)
    )
    if not rows:
        return ""
    label = html.escape(f"Runs behind the cells of: {table.title}")
    summary = f'<summary aria-label="{label}">Runs behind the cells</summary>'
    return f'<details class="runs">{summary}\n<dl>{rows}</dl></details>\n'


def to_latex(table: Table) -> str:
    """A `tabular` for booktabs; notes and the runs behind the cells follow as comments."""
    columns = "".join("l" if number in table.text_columns else "r" for number in range(len(table.columns)))
    lines = [f"% {_one_line(table.title)}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(escape_latex(column) for column in table.columns) + r" \\", r"\midrule"]
    for number, row in enumerate(table.rows):
        if number in table.rule_before:
            lines.append(r"\midrule")
        shown = [escape_latex(cell.text) for cell in row]
        bold = [rf"\textbf{{{s}}}" if cell.mark == "best" else s for s, cell in zip(shown, row, strict=True)]
        lines.append(" & ".join(bold) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [f"% {_one_line(note)}" for note in table.notes]
    lines += [f"% Runs of {_one_line(trace.label)}: {_one_line(' '.join(trace.runs))}" for trace in traces(table)]
    return "\n".join(lines) + "\n"


def escape_markdown(value: str) -> str:
    return _MARKDOWN.sub(r"\\\1", value).replace("\n", " ")


def escape_latex(value: str) -> str:
    return "".join(_LATEX.get(character, character) for character in value)


def _one_line(value: str) -> str:
    """A comment ends with its line: nothing in a name may end it early."""
    return " ".join(value.split())


def _kind(table: Table, column: int) -> str:
    return ' class="words"' if column in table.text_columns else ""


def _html_row(table: Table, number: int) -> str:
    cells = "".join(_html_cell(table, column, cell) for column, cell in enumerate(table.rows[number]))
    rule = ' class="rule"' if number in table.rule_before else ""
    return f"<tr{rule}>{cells}</tr>\n"


def _html_cell(table: Table, column: int, cell: Cell) -> str:
    shown = html.escape(cell.text)
    if column == 0:
        identity = f' id="{html.escape(cell.anchor)}"' if cell.anchor else ""
        return f'<th scope="row"{identity}>{shown}</th>'
    classes = [name for name in ("words" if column in table.text_columns else "", cell.mark.replace(" ", "-")) if name]
    attribute = f' class="{" ".join(classes)}"' if classes else ""
    title = f' title="{html.escape(" ".join(cell.runs))}"' if cell.runs else ""
    return f"<td{attribute}{title}>{shown}</td>"

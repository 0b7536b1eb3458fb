"""The report as one HTML file that needs nothing else: styles and images inline, no script, no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.report.figures import FigureFile
from pipeline.report.render import escape_markdown, to_html, to_markdown
from pipeline.report.table import Table

STYLES = Path(__file__).with_name("page.css")


@dataclass(frozen=True)
class Section:
    """A part of the report: anchor, heading, then paragraphs, list points, tables, figures, preformatted lines.

    `folded` tables stand last, each behind its title: for who asks further.
    """

    name: str
    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[FigureFile, ...] = ()
    points: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    folded: tuple[Table, ...] = ()


def render_page(title: str, evidence: str, sections: Sequence[Section]) -> str:
    """The whole page; `evidence` is the sentence about the weight of the evidence that stands above everything."""
    shown = html.escape(title)
    anchors = {cell.anchor for section in sections for table in section.tables for row in table.rows for cell in row}
    links = "".join(f'<li><a href="#{html.escape(s.name)}">{html.escape(s.title)}</a></li>' for s in sections)
    body = "".join(_section(section, anchors) for section in sections)
    return _document(
        title,
        f'<a class="skip" href="#main">Skip to the report</a>\n<header>\n<h1>{shown}</h1>\n</header>\n'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main id="main">\n'
        f'<p class="evidence">{html.escape(evidence)}</p>\n{body}</main>\n',
    )


def table_page(table: Table) -> str:
    """One table as a page of its own, which needs nothing else either."""
    return _document(table.title, f"<main>\n{to_html(table)}</main>\n")


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLES.read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n{body}</body>\n</html>\n"
    )


def render_markdown(title: str, evidence: str, sections: Sequence[Section], folder: Path) -> str:
    """The same report as markdown; figures are linked relative to `folder`."""
    parts = [f"# {escape_markdown(title)}", f"**{escape_markdown(evidence)}**"]
    for section in sections:
        parts.append(f"## {escape_markdown(section.title)}")
        parts += [escape_markdown(paragraph) for paragraph in section.paragraphs]
        if section.points:
            parts.append("\n".join(f"- {escape_markdown(point)}" for point in section.points))
        parts += [to_markdown(table).rstrip() for table in section.tables]
        for figure in section.figures:
            source = figure.stem.relative_to(folder).as_posix() + ".png"
            parts += [f"### {escape_markdown(figure.title)}", f"![{escape_markdown(figure.alt)}]({source})"]
            parts.append(escape_markdown(figure.caption))
        if section.lines:
            # Indented, not fenced: no line of data can end the block.
            parts.append("\n".join(f"    {line}" for line in section.lines))
        parts += [to_markdown(table).rstrip() for table in section.folded]
    return "\n\n".join(parts) + "\n"


def _section(section: Section, anchors: Collection[str]) -> str:
    name = html.escape(section.name)
    parts = [f'<section id="{name}" aria-labelledby="{name}-heading">\n<h2 id="{name}-heading">']
    parts.append(f"{html.escape(section.title)}</h2>\n")
    parts += [f"<p>{html.escape(paragraph)}</p>\n" for paragraph in section.paragraphs]
    if section.points:
        parts.append("<ul>" + "".join(f"<li>{html.escape(point)}</li>\n" for point in section.points) + "</ul>\n")
    parts += [to_html(table, anchors) for table in section.tables]
    parts += [_figure(figure) for figure in section.figures]
    if section.lines:
        shown = html.escape("\n".join(section.lines))
        parts.append(f'<pre tabindex="0" aria-label="{html.escape(section.title)}">{shown}</pre>\n')
    parts += [
        f'<details class="more"><summary>{html.escape(table.title)}</summary>\n{to_html(table, anchors)}</details>\n'
        for table in section.folded
    ]
    return "".join(parts) + "</section>\n"


def _figure(figure: FigureFile) -> str:
    png = figure.stem.with_name(figure.stem.name + ".png").read_bytes()
    name = html.escape(figure.stem.name)
    return (
        f'<figure class="image" id="figure-{name}">\n<figcaption>{html.escape(figure.title)}</figcaption>\n'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(figure.title)}">'
        f'<img alt="{html.escape(figure.alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></div>\n'
        f'<p class="quiet">{html.escape(figure.caption)} Numbers drawn: figures/{name}.csv.</p>\n</figure>\n'
    )

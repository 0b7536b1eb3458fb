"""The report of a grid: the papers' tables in four formats, figures, markdown, and one page that argues from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.atomic import write_atomic
from pipeline.config.grid import load_grid
from pipeline.report.figures import AffinityView, FigureFile, affinity_figure
from pipeline.report.page import Section, render_markdown, render_page, table_page
from pipeline.report.paper.accuracy import accuracy_tables
from pipeline.report.paper.agreement import agreement_tables, read_agreement
from pipeline.report.paper.contrasts import ACCURACY, SPEED, Contrast, Question, against, ask, contrast_table
from pipeline.report.paper.cost import cost_tables
from pipeline.report.paper.figures import draw_figures
from pipeline.report.paper.grid import GridResults, read_grid
from pipeline.report.paper.grouping import grouping_questions, grouping_tables
from pipeline.report.paper.order import order_table
from pipeline.report.paper.published import LABEL, TRAINING_TIME
from pipeline.report.paper.sources import data_sources, grid_caveats, problems, run_sources
from pipeline.report.paper.tuning import read_search, tuning_sentence, tuning_table
from pipeline.report.paper.verdict import CLAIM, evidence, family_sentences, verdict
from pipeline.report.render import to_csv, to_latex, to_markdown, to_text
from pipeline.report.runs import ORIGINAL
from pipeline.report.table import Table

# What each table's comparisons are about.
_METRICS = {
    "T1": ACCURACY,
    "T2": ACCURACY,
    "T3": (*ACCURACY, *SPEED),
    "T4": (*ACCURACY, *SPEED),
    "T6": tuple(SPEED),
    "T7": (*ACCURACY, *SPEED),
}
_HEADINGS = {
    "T1": "T1. Full data",
    "T2": "T2. Low resource",
    "T3": "T3. Order of the groups",
    "T4": "T4. Is it the grouping?",
    "T5": "T5. Ways to measure affinity",
    "T6": "T6. Cost to target",
    "T7": "T7. Curricula of the second paper",
}
_FIGURES = {
    "T1": ("accuracy", "mean_loss"),
    "T2": ("accuracy_low",),
    "T4": ("partitions",),
    "T5": ("affinity", "agreement"),
    "T6": ("cost",),
}
# For who asks further: the page shows them folded, and they are files like every other table.
_FOLDED = frozenset(
    {
        "T2-metrics", "T2-comparisons", "T3-comparisons", "T5-agreement", "T6-once", "T6-speed-up-once", "T6-accuracy",
        "T6-runs", "T6-comparisons", "T7-metrics", "T7-comparisons",
    }
)  # fmt: skip


@dataclass(frozen=True)
class GridReport:
    """A written report of a grid. `text` is for the terminal; `summary` are its head sentences."""

    folder: Path
    text: str
    summary: tuple[str, ...]
    tables: dict[str, Table]
    figures: tuple[FigureFile, ...]
    contrasts: dict[str, list[Contrast]]
    results: GridResults


def build_grid_report(
    grid_dir: Path,
    out_dir: Path | None = None,
    *,
    machine: str = "not recorded",
    commands: Sequence[str] = (),
    any_code: bool = False,
    eps: float = 0.02,
    affinity: AffinityView | None = None,
) -> GridReport:
    """Write report.html, report.md, tables/ (csv, tex, md, html) and figures/ below `out_dir` (<grid>/report).

    Args:
        machine, commands: what the runs ran on and how to repeat them, for the provenance.
        any_code: take runs whatever code they were made with.
        affinity: the affinity version to draw, if there is one.

    Raises:
        ConfigError: no grid, no finished run in it, or an agreement file that cannot be read.
    """
    out = out_dir or grid_dir / "report"
    grid = read_grid(grid_dir, load_grid(grid_dir), eps=eps, any_code=any_code)
    agreement = read_agreement(grid_dir / (grid.spec.agreement or "") / "affinity" / "agreement.json")
    contrasts = {name: asked for name in _METRICS if (asked := _ask(grid, name))}
    parts = {
        "T1": accuracy_tables(grid, "T1"),
        "T2": accuracy_tables(grid, "T2"),
        "T3": order_table(grid),
        "T4": grouping_tables(grid),
        "T5": agreement_tables(grid, agreement),
        "T6": cost_tables(grid, machine),
        "T7": accuracy_tables(grid, "T7"),
    }
    for name, items in contrasts.items():
        title = f"{name}. Paired comparisons over seeds, in points"
        parts[name].append(contrast_table(items, name=f"{name}-comparisons", title=title))
    missing = problems(grid)
    summary = [evidence(grid, contrasts), CLAIM, *verdict(grid, contrasts, missing)]
    others = [tuning_table(grid), missing, run_sources(grid, read_search(grid_dir)), *data_sources(grid)]
    figures = draw_figures(grid, agreement, out / "figures")
    if affinity is not None:
        figures["affinity"] = affinity_figure(affinity, out / "figures" / "affinity")
    sections = _sections(grid, summary, parts, others, contrasts, figures, machine, commands)
    tables = {table.name: table for found in (*parts.values(), others) for table in found}
    title = f"Grouped sequential training: grid {grid.folder.resolve().name} ({grid.spec.scale})"
    _write(out, title, summary, sections)
    _write_tables(tables, out / "tables")
    shown = [to_text(tables[name]) for name in ("tuning", *parts) if name in tables]
    text = "\n".join([*(f"- {sentence}" for sentence in summary), "", *shown])
    return GridReport(out, text, tuple(summary), tables, tuple(figures.values()), contrasts, grid)


def _ask(grid: GridResults, name: str) -> list[Contrast]:
    """A table's comparisons: every arm against the baseline; T3 and T4 also ask what they are there for."""
    wanted = grid.of_table(name)
    if wanted is None:
        return []
    arms, study = wanted
    trained = [arm for arm in arms if arm != ORIGINAL]
    questions = grouping_questions(grid) if name == "T4" else against(grid, grid.spec.baseline, trained)
    if name == "T3" and "gst-g3" in trained:
        others = [arm for arm in trained if arm not in ("gst-g3", grid.spec.baseline)]
        questions += [Question("gst-g3", (arm,), f"progressive - {grid.title(arm)}") for arm in others]
    return ask(grid, study, questions, _METRICS[name]) if questions else []


def _sections(
    grid: GridResults,
    summary: Sequence[str],
    parts: dict[str, list[Table]],
    others: Sequence[Table],
    contrasts: dict[str, list[Contrast]],
    figures: dict[str, FigureFile],
    machine: str,
    commands: Sequence[str],
) -> list[Section]:
    tuning, missing, *sources = others
    sections = [
        Section("verdict", "Claim and verdict", (summary[1],), points=tuple(summary[2:]), folded=(missing,)),
        Section("baseline", "How the baseline was tuned", (tuning_sentence(grid),), (tuning,)),
    ]
    for name, tables in parts.items():
        if tables:
            drawn = tuple(figures[key] for key in _FIGURES.get(name, ()) if key in figures)
            said = tuple(family_sentences(contrasts.get(name, [])))
            more = (f"{LABEL.capitalize()}: {TRAINING_TIME}.",) if name == "T6" else ()
            shown = tuple(table for table in tables if table.name not in _FOLDED)
            folded = tuple(table for table in tables if table.name in _FOLDED)
            title = _HEADINGS[name]
            sections.append(Section(f"section-{name}", title, more, shown, drawn, said, folded=folded))
    sections.append(Section("caveats", "What speaks against this", points=tuple(grid_caveats(grid))))
    where = (f"Machine: {machine}", f"Grid: {grid.folder.resolve().name}/grid.yaml, scale {grid.spec.scale}.")
    sections.append(Section("provenance", "Where the numbers come from", where, tuple(sources), lines=tuple(commands)))
    return sections


def _write(out: Path, title: str, summary: Sequence[str], sections: Sequence[Section]) -> None:
    write_atomic(out / "report.md", render_markdown(title, summary[0], sections, out).encode())
    write_atomic(out / "report.html", render_page(title, summary[0], sections).encode())


def _write_tables(tables: dict[str, Table], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_atomic(folder / f"{name}.csv", to_csv(table).encode())
        write_atomic(folder / f"{name}.tex", to_latex(table).encode())
        write_atomic(folder / f"{name}.md", to_markdown(table).encode())
        write_atomic(folder / f"{name}.html", table_page(table).encode())

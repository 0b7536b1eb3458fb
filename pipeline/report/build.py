"""The report of one experiment folder: tables, figures, markdown, one HTML page, and text for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.atomic import write_atomic
from pipeline.report.compare import compare_arms
from pipeline.report.conflict import conflict_curves, conflict_table, noise_table
from pipeline.report.cost import Judgement, judge
from pipeline.report.cost_tables import (
    accuracy_cost_table,
    cost_by_seed_table,
    cost_table,
    each_once_table,
    first_hit_table,
    own_stop_table,
)
from pipeline.report.curves import loss_curves, mean_loss, mixture_shares
from pipeline.report.examples import read_all
from pipeline.report.figures import AffinityView, FigureFile, affinity_figure, target_bars
from pipeline.report.page import Section, render_markdown, render_page
from pipeline.report.provenance import caveats, data_table, problems_table, runs_table
from pipeline.report.render import to_csv, to_latex, to_text
from pipeline.report.runs import Experiment, read_experiment
from pipeline.report.summary import summary_sentences
from pipeline.report.table import Table
from pipeline.report.tables import accuracy_table, comparison_table, published_table, stage_table


@dataclass(frozen=True)
class Report:
    """A written report. `text` is for the terminal; `tables` by name; `summary` are its head sentences."""

    folder: Path
    text: str
    summary: tuple[str, ...]
    tables: dict[str, Table]
    figures: tuple[FigureFile, ...]
    experiment: Experiment
    judgement: Judgement


def build_report(
    experiment_dir: Path,
    out_dir: Path,
    *,
    baseline: str = "mix_all",
    eps: float = 0.02,
    affinity: AffinityView | None = None,
    arms: Iterable[str] = (),
    machine: str | None = None,
    commands: Sequence[str] = (),
    any_code: bool = False,
) -> Report:
    """Write report.md, report.html, tables/*.csv and *.tex, figures/*.png, *.pdf and *.csv below `out_dir`.

    Args:
        affinity: what to draw of the affinity version that the arms were planned from.
        arms: arms that ought to be there; they are shown as missing when they are not.
        machine, commands: what the runs ran on and how to repeat them, for the provenance.
        any_code: take runs whatever code they were made with.

    Raises:
        ConfigError: no finished run, no cost of a probe that an arm used, or a negative eps.
        AffinityError: the affinity does not fit itself.
    """
    experiment = read_experiment(experiment_dir, baseline=baseline, arms=arms, any_code=any_code)
    judgement = judge(experiment, baseline=baseline, eps=eps)
    examples = read_all(experiment)
    comparisons = compare_arms(experiment, judgement, examples)
    summary = summary_sentences(experiment, judgement, comparisons)
    result_tables = {
        table.name: table
        for table in (
            accuracy_table(experiment),
            cost_table(experiment, judgement),
            each_once_table(experiment, judgement),
            accuracy_cost_table(experiment, judgement),
            own_stop_table(experiment, judgement),
            cost_by_seed_table(experiment, judgement),
            first_hit_table(experiment, judgement),
            comparison_table(comparisons),
            stage_table(experiment),
            conflict_table(experiment),
            noise_table(experiment),
            published_table(),
            problems_table(experiment, judgement, examples),
            runs_table(experiment),
            data_table(experiment),
        )
    }
    figures = _draw(experiment, judgement, affinity, out_dir / "figures")
    notes = caveats(experiment, judgement)
    sections = _sections(summary, result_tables, figures, affinity, notes, machine, commands)
    title = f"{experiment.name}: grouped sequential training against {baseline}"
    _write_tables(result_tables, out_dir / "tables")
    write_atomic(out_dir / "report.md", render_markdown(title, summary[0], sections, out_dir).encode())
    write_atomic(out_dir / "report.html", render_page(title, summary[0], sections).encode())
    text = _terminal(title, summary, result_tables | {"stages": stage_table(experiment, brief=True)})
    return Report(out_dir, text, tuple(summary), result_tables, tuple(figures.values()), experiment, judgement)


def _draw(
    experiment: Experiment, judgement: Judgement, affinity: AffinityView | None, folder: Path
) -> dict[str, FigureFile]:
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, FigureFile] = {}
    if affinity is not None:
        figures["affinity"] = affinity_figure(affinity, folder / "affinity")
    if any(run.evaluations for run in experiment.runs):
        figures["mean_loss"] = mean_loss(experiment, judgement, folder / "mean_loss")
        figures["loss_by_dataset"] = loss_curves(experiment, judgement, folder / "loss_by_dataset")
    if judgement.costs:
        figures["cost_to_target"] = target_bars(experiment, judgement, folder / "cost_to_target")
    if any(run.steps for run in experiment.runs):
        figures["mixture"] = mixture_shares(experiment, judgement, folder / "mixture")
    if any(run.conflicts for run in experiment.runs):
        figures["conflict"] = conflict_curves(experiment, judgement, folder / "conflict")
    return figures


def _sections(
    summary: Sequence[str],
    tables: dict[str, Table],
    figures: dict[str, FigureFile],
    affinity: AffinityView | None,
    notes: Sequence[str],
    machine: str | None,
    commands: Sequence[str],
) -> list[Section]:
    def pick(*names: str) -> tuple[FigureFile, ...]:
        return tuple(figures[name] for name in names if name in figures)

    cost_names = ("cost_to_target", "cost_each_once", "first_hits", "cost_to_accuracy", "own_stop", "cost_by_seed")
    no_affinity = "No affinity version was given, so there is no affinity figure."
    verdict = no_affinity if affinity is None else affinity.verdict
    return [
        Section("summary", "What was found", points=tuple(summary[1:]), tables=(tables["problems"],)),
        Section("accuracy-section", "Accuracy", tables=(tables["accuracy"], tables["comparisons"])),
        Section("cost", "Cost to target", tables=tuple(tables[n] for n in cost_names), figures=pick("cost_to_target")),
        Section("curves", "Course of training", figures=pick("mean_loss", "loss_by_dataset")),
        Section(
            "grouping",
            "Affinity and stages",
            (verdict,) if verdict else (),
            (tables["stages"],),
            pick("affinity", "mixture"),
        ),
        Section(
            "conflict-section",
            "Conflict between datasets in training",
            tables=(tables["conflict"], tables["noise_scale"]),
            figures=pick("conflict"),
        ),
        Section("caveats", "What speaks against this", points=tuple(notes)),
        Section("reference", "Published numbers, for reference only", tables=(tables["published"],)),
        Section(
            "provenance",
            "Where the numbers come from",
            (f"Machine: {machine or 'not recorded'}",),
            (tables["runs"], tables["data"]),
            lines=tuple(commands),
        ),
    ]


def _write_tables(tables: dict[str, Table], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_atomic(folder / f"{name}.csv", to_csv(table).encode())
        write_atomic(folder / f"{name}.tex", to_latex(table).encode())


def _terminal(title: str, summary: Sequence[str], tables: dict[str, Table]) -> str:
    """The tables a reader of the terminal wants; the page has them all."""
    parts = [title, "", *(f"- {sentence}" for sentence in summary), ""]
    shown = ["accuracy", "cost_to_target", "cost_each_once", "own_stop"]
    shown += [name for name in ("stages", "problems") if tables[name].rows]
    return "\n".join(parts) + "\n" + "\n".join(to_text(tables[name]) for name in shown)

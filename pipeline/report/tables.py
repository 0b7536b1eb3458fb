"""The tables of results: accuracy by dataset and arm, stages, comparisons, and the paper's numbers as a reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pipeline.report.averages import Field
from pipeline.report.compare import ACCURACY_METRICS, Comparison, final_average
from pipeline.report.runs import Experiment, Run
from pipeline.report.table import Cell, Table, count, mark_best, percent, seed_cell, text

WEIGHTS_NOTE = (
    "The weighted average weighs each dataset by its number of test examples, the macro average weighs all alike. "
    "An average is shown only where every dataset is there."
)

BEST_NOTE = (
    "Best of a row: by printed mean; no significance is implied. NaN: the test loss is not a number there, so whatever "
    "the accuracy is, no model stands behind it; it is marked and never averaged away."
)


def accuracy_table(experiment: Experiment) -> Table:
    """Token accuracy in percent, one row a dataset, one column an arm; averages, and exact match, below."""
    rows = [
        (text(name), *arm_cells(experiment, lambda run, name=name: _score(run, name, "token_accuracy")))  # type: ignore[misc]
        for name in experiment.datasets
    ]
    fields: tuple[tuple[str, Field], ...] = (("token accuracy", "token_accuracy"), ("exact match", "exact_match"))
    for label, field in fields:
        for kind in ("weighted", "macro"):
            cells = arm_cells(experiment, lambda run, k=kind, f=field: sound_average(run, experiment, k, f))  # type: ignore[misc]
            rows.append((text(f"{kind} {label}"), *cells))
    n_datasets = len(experiment.datasets)
    return Table(
        name="accuracy",
        title="Token accuracy on the test split, in percent",
        columns=("dataset", *experiment.arms),
        rows=tuple(rows),
        notes=(WEIGHTS_NOTE, spread_note(experiment), BEST_NOTE),
        rule_before=frozenset({n_datasets, n_datasets + 2}),
    )


def spread_note(experiment: Experiment) -> str:
    """How many seeds stand behind a cell, in words."""
    n = len(experiment.seeds)
    if n == 1:
        return "One seed per arm: no spread is known, and differences between arms may be noise."
    return f"Mean ± standard deviation over {n} seeds; (n=...) where a cell has fewer."


def stage_table(experiment: Experiment, *, brief: bool = False) -> Table:
    """When each stage began in each run, what entered, and the numbers of that decision.

    Args:
        brief: only runs with more than one stage, and of each arm only its first seed.
    """
    rows: list[tuple[Cell, ...]] = []
    rules = set()
    for run in _first_staged(experiment) if brief else experiment.runs:
        before: set[str] = set()
        if run.stages and rows:
            rules.add(len(rows))
        for entry in run.stages:
            entering = [name for name in entry.pool if name not in before]
            left = sorted(before - set(entry.pool))
            before = set(entry.pool)
            words = "all" if len(entering) == len(experiment.datasets) else ", ".join(entering) or "-"
            share = entry.step / run.result.steps if run.result.steps else math.nan
            rows.append(
                (
                    text(run.id),
                    count(entry.stage),
                    count(entry.step),
                    count(entry.samples),
                    Cell(percent(share, 0), share),
                    text(words + (f" (left: {', '.join(left)})" if left else "")),
                    text(entry.reason.get("rule", "-")),
                    text(_numbers(entry.reason)),
                )
            )
    columns = ("run", "stage", "step", "samples", "of run", "entering datasets", "rule", "numbers of the decision")
    return Table(
        "stages",
        "Stages: what entered when, and why",
        columns,
        tuple(rows),
        (),
        frozenset(rules),
        frozenset({0, 5, 6, 7}),
    )


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Paired differences with interval and tests."""
    rows = []
    rules = set()
    for number, item in enumerate(comparisons):
        paired = item.paired
        if number and item.metric != comparisons[number - 1].metric:
            rules.add(number)
        note = paired.note
        if item.left_out:
            note = "; ".join(part for part in (note, f"{item.left_out} seed(s) left out: no value there") if part)
        rows.append(
            (
                text(item.metric),
                text(f"{item.ours} - {item.theirs}"),
                count(paired.n),
                Cell(
                    "-" if math.isnan(paired.difference) else f"{100 * paired.difference:+.1f}", 100 * paired.difference
                ),
                points_interval(paired.interval),
                points_interval(paired.bootstrap),
                points_interval(item.two_level.interval if item.two_level else None),
                p_value_cell(paired.t_p),
                p_value_cell(paired.wilcoxon_p),
                p_value_cell(item.holm_p),
                Cell("-" if paired.detectable is None else f"{100 * paired.detectable:.1f}", paired.detectable),
                text(note or "-"),
            )
        )
    return Table(
        "comparisons",
        "Paired comparisons over seeds, in points",
        (
            "metric",
            "arms",
            "n",
            "difference",
            "95 % t interval",
            "95 % bootstrap",
            "95 % interval with test examples",
            "p (t)",
            "p (Wilcoxon)",
            "p (Holm)",
            "detectable",
            "note",
        ),
        tuple(rows),
        (
            "Positive is better for the first arm. Holm adjusts the t test's p over all comparisons on that metric. "
            "Detectable: the true difference that this many seeds, with this spread, find with 80 % power.",
            "The first two intervals are over seeds only; the third also takes the test examples as a sample, where "
            "the runs have written them (hierarchical bootstrap).",
        ),
        frozenset(rules),
        frozenset({0, 1, 11}),
    )


def published_table() -> Table:
    """Numbers of arXiv 2605.19101: a reference, never mixed with ours."""

    def row(label: str, *values: str) -> tuple[Cell, ...]:
        return (text(label), *(text(value, mark="reference") for value in values))

    return Table(
        "published",
        "Published, other data and model (arXiv 2605.19101, SALMONN-13B, 14 full corpora): weighted token accuracy, %",
        ("setting", "Mix-all", "GST-T2", "GST-G3", "other"),
        (
            row("full data", "74.2", "74.5", "75.0", 'training time "about 4 days -> 2 days", "30-40% faster"'),
            row("low resource, 250 samples per dataset", "63.9", "64.7", "63.4", "-"),
            row("order ablation", "-", "-", "-", "strict cycle sequential 64.0 / 68.2; progressive > reverse"),
        ),
        ("For orientation only: none of these was measured here, and none is comparable with the tables above.",),
        text_columns=frozenset({0, 4}),
    )


def headline_differences(comparisons: Sequence[Comparison], ours: str, theirs: str) -> list[Comparison]:
    """The accuracy comparisons of one pair of arms."""
    return [c for c in comparisons if (c.ours, c.theirs) == (ours, theirs) and c.metric in ACCURACY_METRICS]


def _first_staged(experiment: Experiment) -> list[Run]:
    staged = [[run for run in experiment.of_arm(arm) if len(run.stages) > 1] for arm in experiment.arms]
    return [runs[0] for runs in staged if runs]


def arm_cells(
    experiment: Experiment,
    value: Callable[[Run], float | None],
    *,
    scale: float = 100.0,
    digits: int = 1,
    highest: bool = True,
) -> list[Cell]:
    """One cell an arm, over its seeds; runs without the value are left out of n, and all without it is `missing`.

    Args:
        scale, digits: how a value is shown.
        highest: whether the highest mean is the best one.
    """
    cells = []
    for arm in experiment.arms:
        runs = experiment.of_arm(arm)
        values = {run.id: found for run in runs if (found := value(run)) is not None}
        # The untouched model is scored once; every trained arm should have all seeds.
        expected = len(experiment.seeds) if arm in experiment.trained_arms else len(runs)
        cells.append(seed_cell(values, scale=scale, digits=digits, expected=expected))
    return mark_best(cells, highest=highest)


def sound_average(run: Run, experiment: Experiment, kind: str, field: Field = "token_accuracy") -> float | None:
    """`final_average`, but NaN where any test loss is: an average over a broken model's answers means nothing."""
    average = final_average(run, experiment, kind, field)
    losses = [run.result.scores[name].loss for name in experiment.datasets if name in run.result.scores]
    return average if average is None or all(map(math.isfinite, losses)) else math.nan


def _score(run: Run, dataset: str, field: Field) -> float | None:
    score = run.result.scores.get(dataset)
    if score is None:
        return None
    return float(getattr(score, field)) if math.isfinite(score.loss) else math.nan


def _numbers(reason: dict[str, object]) -> str:
    parts = []
    for key, value in reason.items():
        if key == "rule":
            continue
        parts.append(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(parts) or "-"


def points_interval(bounds: tuple[float, float] | None) -> Cell:
    """An interval of shares, shown in points."""
    return text("-") if bounds is None else text(f"{100 * bounds[0]:+.1f} .. {100 * bounds[1]:+.1f}")


def p_value_cell(p: float | None) -> Cell:
    """A p-value, or a dash where there is no test."""
    if p is None:
        return text("-")
    return Cell("<0.001" if p < 0.001 else f"{p:.3f}", p)

"""What each table asks of its arms, over paired seeds: differences, intervals, tests, Holm's correction, power.

A family is what one table asks of one metric: Holm's correction is over its tests. `theirs` may be several arms (the
random partitions): then the mean over them, seed by seed, is what ours is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase

from pipeline.report.bootstrap import TwoLevel
from pipeline.report.compare import speed_ups
from pipeline.report.cost import Judgement, Reading
from pipeline.report.examples import two_level_difference
from pipeline.report.paper.grid import GridResults, StudyResults
from pipeline.report.paper.shape import select
from pipeline.report.runs import Experiment
from pipeline.report.stats import MIN_PAIRS, Paired, compare_pairs, holm
from pipeline.report.table import Cell, Table, count, text
from pipeline.report.tables import p_value_cell, points_interval, sound_average

ACCURACY = ("weighted token accuracy", "macro token accuracy")
SPEED: Mapping[str, Reading] = {"speed-up in samples": "together", "speed-up in samples, each once": "each_once"}


@dataclass(frozen=True)
class Question:
    """`ours` against `theirs`; with several of theirs, against their mean on each seed, which `words` names."""

    ours: str
    theirs: tuple[str, ...]
    words: str


@dataclass(frozen=True)
class Contrast:
    """An answered question on one metric, as shares of 1. `left_out` seeds had no value for one of the arms.

    `two_level` takes the test examples as a sample too; None for what is not a mean over examples.
    """

    metric: str
    question: Question
    paired: Paired
    holm_p: float | None = None
    left_out: int = 0
    tests: int = 1
    two_level: TwoLevel | None = None

    @property
    def established(self) -> bool:
        """Whether the difference is one: on enough seeds, at Holm's p < 0.05 within its family."""
        return self.paired.n >= MIN_PAIRS and self.holm_p is not None and self.holm_p < 0.05


def against(grid: GridResults, baseline: str, arms: Sequence[str]) -> list[Question]:
    """Every arm against the baseline."""
    return [
        Question(arm, (baseline,), f"{grid.title(arm)} - {grid.title(baseline)}") for arm in arms if arm != baseline
    ]


def ask(
    grid: GridResults, study: StudyResults, questions: Sequence[Question], metrics: Sequence[str]
) -> list[Contrast]:
    """All questions on all metrics, Holm-adjusted within each metric."""
    arms = list(dict.fromkeys(arm for q in questions for arm in (q.ours, *q.theirs)))
    experiment, judgement = select(grid, study, arms)
    found: list[Contrast] = []
    for metric in metrics:
        rows = [_answer(study, experiment, judgement, metric, question) for question in questions]
        adjusted = holm({str(number): row.paired.t_p for number, row in enumerate(rows)})
        tests = sum(p is not None for p in adjusted.values())
        found += [replace(row, holm_p=adjusted[str(number)], tests=tests) for number, row in enumerate(rows)]
    return found


def values_by_seed(experiment: Experiment, judgement: Judgement, metric: str, arm: str) -> dict[int, float]:
    """An arm's value of a metric by seed; seeds without one are not there."""
    if metric in SPEED:
        return speed_ups(judgement, arm, "samples", SPEED[metric])
    kind = metric.split(" ")[0]
    averages = {run.seed: sound_average(run, experiment, kind) for run in experiment.of_arm(arm)}
    return {seed: value for seed, value in averages.items() if value is not None}


def contrast_table(contrasts: Sequence[Contrast], *, name: str, title: str) -> Table:
    """One row a question and metric."""
    rows, rules = [], set()
    letters = _letters(contrasts)
    for number, item in enumerate(contrasts):
        if number and item.metric != contrasts[number - 1].metric:
            rules.add(number)
        rows.append((*_row(item), text(", ".join(letters[remark] for remark in _remarks(item)) or "-")))
    return Table(
        name,
        title,
        _COLUMNS,
        tuple(rows),
        (
            "Differences over paired seeds, in points; positive is better for the first arm. Holm adjusts p (t) over "
            "this table's comparisons on the same metric. Detectable: the true difference that this many seeds with "
            "this spread find with 80 % power at p < 0.05, before any correction. The second interval also takes the "
            "test examples as a sample (hierarchical bootstrap).",
            *(f"{letter}: {remark}." for remark, letter in letters.items()),
        ),
        frozenset(rules),
        frozenset({0, 1, len(_COLUMNS) - 1}),
    )


_COLUMNS = (
    "arms",
    "metric",
    "seeds",
    "difference",
    "95 % t interval, seeds",
    "95 % interval, seeds and test examples",
    "p (t)",
    "p (sign flips)",
    "p (Holm)",
    "detectable",
    "notes",
)


def _row(item: Contrast) -> tuple[Cell, ...]:
    paired = item.paired
    unknown = math.isnan(paired.difference)
    return (
        text(item.question.words),
        text(item.metric),
        count(paired.n),
        text("missing", mark="missing")
        if unknown
        else Cell(f"{100 * paired.difference:+.1f}", 100 * paired.difference),
        points_interval(paired.interval),
        points_interval(item.two_level.interval if item.two_level else None),
        p_value_cell(paired.t_p),
        p_value_cell(paired.permutation_p),
        p_value_cell(item.holm_p),
        text("-") if paired.detectable is None else Cell(f"{100 * paired.detectable:.1f}", 100 * paired.detectable),
    )


def _remarks(item: Contrast) -> list[str]:
    left_out = f"{item.left_out} seed(s) left out: no value there" if item.left_out else ""
    examples = item.two_level.note if item.two_level else ""
    return [remark for remark in (item.paired.note, left_out, examples) if remark]


def _letters(contrasts: Sequence[Contrast]) -> dict[str, str]:
    """A letter for each remark, so that what holds for many rows is said once, below the table."""
    remarks = list(dict.fromkeys(remark for item in contrasts for remark in _remarks(item)))
    return {r: ascii_lowercase[i] if i < 26 else f"n{i + 1}" for i, r in enumerate(remarks)}


def _answer(
    study: StudyResults, experiment: Experiment, judgement: Judgement, metric: str, question: Question
) -> Contrast:
    ours = values_by_seed(experiment, judgement, metric, question.ours)
    each = [values_by_seed(experiment, judgement, metric, arm) for arm in question.theirs]
    common = set.intersection(*(set(values) for values in each)) if each else set()
    theirs = {seed: sum(values[seed] for values in each) / len(each) for seed in common}
    paired = compare_pairs(ours, theirs)
    arms = (question.ours, *question.theirs)
    seeds = set.intersection(*({run.seed for run in experiment.of_arm(arm)} for arm in arms))
    both = None
    if metric in ACCURACY and paired.n:
        kind = metric.split(" ")[0]
        both = two_level_difference(experiment, study.examples, question.ours, question.theirs, kind=kind)
    return Contrast(metric, question, paired, left_out=len(seeds) - paired.n, two_level=both)

"""The head of the page: the claim that the grid tests, and what these seeds establish of it, no more."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.report.paper.contrasts import ACCURACY, Contrast
from pipeline.report.paper.grid import GridResults
from pipeline.report.paper.grouping import grouping_verdict
from pipeline.report.paper.sources import problem_sentence
from pipeline.report.stats import MIN_PAIRS, power_sentence
from pipeline.report.table import Table

# The arm that the paper reports as its best.
PAPERS_BEST = "gst-g3"
CLAIM = (
    "The claim under test (arXiv 2605.19101): training on groups of alike datasets that enter one after the other "
    "reaches the quality of mixing all datasets from the start at 30 to 40 % less cost, and ends at least as good; and "
    "it is the grouping by gradient affinity that does it."
)


def evidence(grid: GridResults, contrasts: dict[str, list[Contrast]]) -> str:
    """The one sentence above everything: how much can be said at all."""
    n = len(grid.spec.seeds)
    head = f"{len(grid.datasets)} datasets, {n} seed(s) per arm."
    if n < 2:
        return f"{head} With one seed nothing can be concluded: every difference below may be noise between seeds."
    if n < MIN_PAIRS:
        return (
            f"{head} Nothing is established: the method asks for at least {MIN_PAIRS} paired seeds. With {n} the "
            "tables show that everything runs and what was measured, and hardly any true difference could be seen."
        )
    found = {name: sum(c.established for c in items) for name, items in contrasts.items() if items}
    tests = sum(len(items) for items in contrasts.values())
    clear = sum(found.values())
    if not clear:
        return f"{head} Of {tests} comparisons none is established at Holm's p < 0.05 within its table: a null result."
    where = ", ".join(f"{count} in {name}" for name, count in found.items() if count)
    return f"{head} Of {tests} comparisons {clear} are established at Holm's p < 0.05 within their table: {where}."


def verdict(grid: GridResults, contrasts: dict[str, list[Contrast]], problems: Table) -> list[str]:
    """What is established and what is not, table by table."""
    sentences = [
        _accuracy(grid, contrasts.get("T1", []), "Full data (T1)"),
        _power(contrasts.get("T1", [])),
        _accuracy(grid, contrasts.get("T2", []), "Low resource (T2)"),
        _orders(contrasts.get("T3", [])),
        f"Grouping (T4): {grouping_verdict(contrasts['T4'])}" if "T4" in contrasts else "",
        _cost(grid, contrasts.get("T6", [])),
        _accuracy(grid, contrasts.get("T7", []), "Curricula of the second paper (T7)"),
        problem_sentence(problems),
    ]
    return [sentence for sentence in sentences if sentence]


def family_sentences(contrasts: Sequence[Contrast]) -> list[str]:
    """The lines above a table: which of its comparisons are established, and on how many seeds they stand."""
    sentences = []
    for metric in dict.fromkeys(c.metric for c in contrasts):
        asked = [c for c in contrasts if c.metric == metric]
        there = [c for c in asked if c.paired.n]
        if not there:
            sentences.append(f"{metric}: none of {len(asked)} comparisons has a seed with both values.")
            continue
        clear = [c for c in there if c.established]
        seeds = sorted({c.paired.n for c in there})
        words = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        few = f"; at least {MIN_PAIRS} are asked for" if seeds[0] < MIN_PAIRS else ""
        found = "; ".join(f"{c.question.words} {_points(c)}" for c in clear)
        head = f"{metric}: {len(clear) or 'none'} of {len(asked)} comparisons established ({words} seed(s) each{few})"
        sentences.append(f"{head}: {found}." if found else f"{head}.")
    return sentences


def _accuracy(grid: GridResults, contrasts: Sequence[Contrast], label: str) -> str:
    asked = [c for c in contrasts if c.metric == ACCURACY[0]]
    there = [c for c in asked if c.paired.n]
    baseline = grid.title(grid.spec.baseline)
    if not asked:
        return ""
    if not there:
        return f"{label}: no arm has a seed in common with {baseline}; nothing is compared."
    best = max(there, key=lambda c: c.paired.difference)
    paper = next((c for c in there if c.question.ours == PAPERS_BEST), None)
    clear = [c for c in there if c.established and c not in (paper, best)]
    parts = [f"{grid.title(paper.question.ours)}, the paper's best, {_points(paper)}"] if paper else []
    if best is not paper:
        chosen = f", picked as the largest of {len(there)}" if len(there) > 1 else ""
        parts.append(f"{grid.title(best.question.ours)}{chosen}, {_points(best)}")
    parts += [f"{grid.title(c.question.ours)} {_points(c)}" for c in clear]
    return f"{label}: final weighted token accuracy less that of {baseline}: {'; '.join(parts)}. {_said(there)}"


def _power(contrasts: Sequence[Contrast]) -> str:
    """What the seeds of T1 could have seen, for the paper's arm."""
    asked = next((c for c in contrasts if c.metric == ACCURACY[0] and c.question.ours == PAPERS_BEST), None)
    if asked is None or not asked.paired.n:
        return ""
    return f"What T1 could see: {power_sentence(asked.paired, tests=max(1, asked.tests))}"


def _orders(contrasts: Sequence[Contrast]) -> str:
    asked = [c for c in contrasts if c.metric == ACCURACY[0] and c.paired.n and c.question.ours == PAPERS_BEST]
    orders = [c for c in asked if c.question.words.startswith("progressive")]
    if not orders:
        return ""
    parts = "; ".join(f"{c.question.words} {_points(c)}" for c in orders)
    return f"Order (T3), weighted token accuracy: {parts}. {_said(orders)}"


def _cost(grid: GridResults, contrasts: Sequence[Contrast]) -> str:
    metrics = list(dict.fromkeys(c.metric for c in contrasts))
    skipped: list[str] = []
    for metric in metrics:
        there = [c for c in contrasts if c.metric == metric and c.paired.n]
        if not there:
            skipped.append(metric)
            continue
        best = max(there, key=lambda c: c.paired.difference)
        clear = [c for c in there if c.established]
        sides = "; ".join(
            f"{word}: {names}"
            for word, names in (
                ("faster", ", ".join(grid.title(c.question.ours) for c in clear if c.paired.difference > 0)),
                ("slower", ", ".join(grid.title(c.question.ours) for c in clear if c.paired.difference < 0)),
            )
            if names
        )
        return (
            f"Cost to target (T6), {metric} over {grid.title(grid.spec.baseline)}: the largest of {len(there)} is that "
            f"of {grid.title(best.question.ours)}, {_points(best)} on {best.paired.n} seed(s). "
            + (f"Established {sides}." if sides else _said(there))
            + (f" ({', '.join(skipped)}: in no seed did both get there.)" if skipped else "")
        )
    if not metrics:
        return ""
    return (
        "Cost to target (T6): in no seed did an arm and the baseline both reach the target, so no speed-up exists, "
        "neither for nor against any arm."
    )


def _said(contrasts: Sequence[Contrast]) -> str:
    """Whether any of these is established, in words."""
    clear = [c for c in contrasts if c.established]
    if not clear:
        return "Not established." if len(contrasts) == 1 else f"None of {len(contrasts)} is established."
    words = (f"{c.question.words} ({'better' if c.paired.difference > 0 else 'worse'})" for c in clear)
    return f"Established: {', '.join(words)}."


def _points(item: Contrast) -> str:
    paired = item.paired
    if math.isnan(paired.difference):
        return "unknown"
    words = f"{100 * paired.difference:+.1f} points"
    if paired.interval is not None:
        words += f" (95 % interval {100 * paired.interval[0]:+.1f} to {100 * paired.interval[1]:+.1f})"
    return words

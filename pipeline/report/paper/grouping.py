"""T4: is it the grouping that helps? Affinity groups against random partitions of the same sizes and other controls.

The partitions are a sample of what groups without any knowledge give: each is a row, their spread is a row, and
affinity's place among them is a table of its own. A difference from one partition says nothing; from their mean, over
paired seeds, it may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.report.paper.contrasts import ACCURACY, SPEED, Contrast, Question, against, values_by_seed
from pipeline.report.paper.grid import GridResults, StudyResults
from pipeline.report.paper.order import COLUMNS, quality_and_cost
from pipeline.report.paper.shape import select
from pipeline.report.stats import MIN_PAIRS, power_sentence, summarize
from pipeline.report.table import MISSING, Cell, Table, text

NAME = "T4"


@dataclass(frozen=True)
class Roles:
    """Which arm of T4 is what: the baseline, affinity groups, random partitions, and controls of one part each."""

    baseline: str
    affinity: str | None
    partitions: tuple[str, ...]
    controls: tuple[str, ...]


def roles(grid: GridResults, study: StudyResults, arms: Sequence[str]) -> Roles:
    """Partitions are the grid's arms of many partitions; affinity is GST-G3, or the first arm whose runs use it."""
    partitions = tuple(arm for arm in arms if grid.partition_of(arm))
    rest = [arm for arm in arms if arm not in partitions and arm != grid.spec.baseline]
    users = [arm for arm in rest if any(run.uses_affinity for run in study.experiment.of_arm(arm))]
    affinity = "gst-g3" if "gst-g3" in rest else next(iter(users), None)
    return Roles(grid.spec.baseline, affinity, partitions, tuple(arm for arm in rest if arm != affinity))


def grouping_tables(grid: GridResults) -> list[Table]:
    """T4 and affinity's place among the partitions; nothing when the grid does not have T4."""
    wanted = grid.of_table(NAME)
    if wanted is None:
        return []
    arms, study = wanted
    part = roles(grid, study, arms)
    affinity = [part.affinity] if part.affinity else []
    ordered = [*affinity, *part.partitions, *part.controls, part.baseline]
    table = quality_and_cost(grid, study, ordered, name=NAME, title="T4. Is it the grouping? Affinity against controls")
    first = len(affinity)
    last = first + len(part.partitions)
    rows = list(table.rows)
    if part.affinity:
        rows[0] = (replace(rows[0][0], text=f"affinity ({grid.title(part.affinity)})"), *rows[0][1:])
    rules = {first, last}
    if part.partitions:
        rows.insert(last, _spread_row(rows[first:last]))
        rules.add(last + 1)
    whole = replace(table, rows=tuple(rows), rule_before=frozenset(rules))
    return [whole, _place_table(grid, study, part)]


def grouping_questions(grid: GridResults) -> list[Question]:
    """Affinity against the mean of the partitions, each control and the baseline; each control against the baseline."""
    wanted = grid.of_table(NAME)
    if wanted is None:
        return []
    arms, study = wanted
    part = roles(grid, study, arms)
    questions = []
    if part.affinity:
        if part.partitions:
            words = f"affinity - mean of {len(part.partitions)} random partitions"
            questions.append(Question(part.affinity, part.partitions, words))
        for arm in (*part.controls, part.baseline):
            questions.append(Question(part.affinity, (arm,), f"affinity - {grid.title(arm)}"))
    return questions + against(grid, part.baseline, part.controls)


def grouping_verdict(contrasts: Sequence[Contrast]) -> str:
    """One sentence on the question of T4, and what so many seeds could have seen."""
    asked = [c for c in contrasts if len(c.question.theirs) > 1 and c.metric in ACCURACY]
    if not asked or asked[0].paired.n == 0:
        return (
            "Whether grouping by affinity matters cannot be said: affinity and several random partitions are needed on "
            "the same seeds, and they are not there."
        )
    first = asked[0]
    partitions, paired = len(first.question.theirs), first.paired
    measured = f"affinity groups differ from the mean of {partitions} random partitions by "
    measured += " and ".join(f"{100 * c.paired.difference:+.1f} points ({c.metric})" for c in asked)
    power = power_sentence(paired, tests=max(1, first.tests))
    if paired.n < MIN_PAIRS:
        return (
            f"Whether grouping by affinity matters is not established: {measured}, but {paired.n} seed(s) are fewer "
            f"than the {MIN_PAIRS} the method asks for. {power}"
        )
    clear = [c for c in asked if c.established]
    if not clear:
        return f"No effect of grouping by affinity is established: {measured}, within noise. {power}"
    sides = " and ".join(f"{'better' if c.paired.difference > 0 else 'worse'} in {c.metric}" for c in clear)
    return f"Affinity groups are {sides} than random partitions (Holm's p < 0.05): {measured}. {power}"


def _spread_row(rows: Sequence[tuple[Cell, ...]]) -> tuple[Cell, ...]:
    """Mean over the partitions' means and their standard deviation, column by column."""
    cells = []
    for column in range(1, len(COLUMNS)):
        known = [row[column] for row in rows if row[column].value is not None and row[column].mark in ("", "best")]
        if column == COLUMNS.index("seeds at target") or not known:
            cells.append(text("-"))
            continue
        found = summarize([cell.value for cell in known if cell.value is not None])
        digits = 0 if "samples" in COLUMNS[column] or "speed-up" in COLUMNS[column] else 1
        shown = f"{found.mean:,.{digits}f}" + ("" if found.spread is None else f" ± {found.spread:,.{digits}f}")
        shown += " %" if "speed-up" in COLUMNS[column] else ""
        shown += f" (of {found.n})" if found.n < len(rows) else ""
        behind = tuple(dict.fromkeys(run for cell in known for run in cell.runs))
        cells.append(Cell(shown, found.mean, found.spread, found.n, behind))
    return (text(f"{len(rows)} random partitions: mean ± spread over them"), *cells)


def places(grid: GridResults, study: StudyResults, part: Roles) -> dict[str, tuple[float, list[float]]]:
    """Per metric affinity's mean over seeds and every partition's, where all of them have one."""
    if part.affinity is None or not part.partitions:
        return {}
    arms = [part.affinity, *part.partitions, part.baseline]
    experiment, judgement = select(grid, study, arms)
    found = {}
    for metric in (*ACCURACY, *SPEED):
        by_arm: list[Mapping[int, float]] = [
            values_by_seed(experiment, judgement, metric, arm) for arm in (part.affinity, *part.partitions)
        ]
        common = sorted(set.intersection(*(set(values) for values in by_arm)))
        means = [summarize([values[seed] for seed in common]).mean for values in by_arm]
        if common:
            found[metric] = (means[0], means[1:])
    return found


def _place_table(grid: GridResults, study: StudyResults, part: Roles) -> Table:
    found = places(grid, study, part)
    rows = []
    for metric in (*ACCURACY, *SPEED):
        if metric not in found:
            rows.append((text(metric), *[MISSING] * 7))
            continue
        ours, theirs = found[metric]
        ahead, tied = sum(value > ours for value in theirs), sum(value == ours for value in theirs)
        spread = summarize(theirs)
        p = (1 + ahead + tied) / (1 + len(theirs))
        rank = f"{ahead + 1} of {len(theirs) + 1}" + (f", tied with {tied}" if tied else "")
        rows.append(
            (
                text(metric),
                _points(ours),
                _points(spread.mean),
                _points(spread.spread),
                _points(min(theirs)),
                _points(max(theirs)),
                Cell(rank, ahead + 1),
                Cell(f"{p:.2f}", p),
            )
        )
    least = 1 / (1 + len(part.partitions))
    return Table(
        "T4-partitions",
        "T4. Where affinity lies among the random partitions (means over the seeds all of them have, in percent)",
        ("metric", "affinity", "partitions: mean", "their spread", "lowest", "highest", "affinity's rank", "p by rank"),
        tuple(rows),
        (
            "Rank 1: above every partition. p by rank: how often one of so many exchangeable groupings would rank so "
            f"high; with {len(part.partitions)} partitions it cannot be below {least:.2f}, so the rank alone can "
            "establish nothing with fewer than 19.",
        ),
    )


def _points(value: float | None) -> Cell:
    return text("-") if value is None else Cell(f"{100 * value:.1f}", 100 * value)

"""The mixture of a plan as a tree, with what each part comes to: for `gst plan`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from rich.table import Table
from rich.text import Text

from pipeline.cli.plan_estimates import Pace
from pipeline.config import Recipe
from pipeline.report.table import duration
from pipeline.schedule import StagePlan
from pipeline.schedule.expected import Expected, ExpectedStage, sum_known, whole_run
from pipeline.schedule.stages import dataset_of

_T = TypeVar("_T")
_UNKNOWN = "-"
ASSUMED = "*"
_COLUMNS = ("weight", "train", "samples", "epochs", "tokens", "steps", "time")


def mixture_tree(
    recipe: Recipe, plan: StagePlan, stages: Sequence[ExpectedStage], sizes: Mapping[str, int], pace: Pace | None
) -> Table:
    """Stages, the datasets each draws from, and their units; then every dataset over the whole run.

    Args:
        sizes: training examples of the datasets.
        pace: None: times are left out.
    """
    table = Table(title=Text(f"{recipe.arm}: {plan.regime}"), title_justify="left", caption_justify="left")
    units = any(stage.source == "units" for stage in plan.stages)
    table.add_column("stage > dataset > unit" if units else "stage > dataset", no_wrap=True)
    for column in _COLUMNS if pace else _COLUMNS[:-1]:
        table.add_column(column, justify="right", no_wrap=True)
    for stage in stages:
        _add_stage(table, plan.stages[stage.number].source, stage, pace)
    if len(stages) > 1:
        _add_head(table, "whole run", stages, pace)
        for lead, part in _branches(whole_run(stages, sizes)):
            _add_part(table, lead, part)
    return table


def _add_stage(table: Table, source: str, stage: ExpectedStage, pace: Pace | None) -> None:
    title = f"stage {stage.number}" + (f", {stage.visits} visits" if stage.visits != 1 else "")
    _add_head(table, title if source == "datasets" else f"{title}, {source}", [stage], pace)
    if source == "units":
        by_dataset = itertools.groupby(sorted(stage.parts, key=_name), lambda part: dataset_of(part.name))
        for lead, (dataset, units) in _branches([(name, list(units)) for name, units in by_dataset]):
            _add_part(table, lead, _together(dataset, units))
            stem = "   " if lead.startswith("└") else "│  "
            for under, unit in _branches(units):
                _add_part(table, stem + under, unit, style="dim")
    else:
        for lead, part in _branches(stage.parts):
            _add_part(table, lead, part)
    table.add_section()


def _add_head(table: Table, title: str, stages: Sequence[ExpectedStage], pace: Pace | None) -> None:
    """The sums over some stages."""
    steps = _count(sum(stage.steps for stage in stages))
    assumed = any(stage.assumed for stage in stages) and len(stages) == 1
    cells: list[Text | str] = [
        Text(title),
        "",
        "",
        _count(sum(stage.samples for stage in stages)),
        "",
        _count(sum_known(stage.tokens for stage in stages)),
        steps + (ASSUMED if assumed else ""),
        *([duration(pace.of(stages))] if pace else []),
    ]
    table.add_row(*cells, style="bold")


def _add_part(table: Table, lead: str, part: Expected, style: str | None = None) -> None:
    numbers = (f"{part.weight:.1%}", _count(part.train), _count(part.samples), f"{part.epochs:.2f}")
    table.add_row(Text(lead + part.name), *numbers, _count(part.tokens), style=style)


def _together(dataset: str, units: Sequence[Expected]) -> Expected:
    """The units of a dataset as one."""
    weight, train, samples = (sum(getattr(unit, of) for unit in units) for of in ("weight", "train", "samples"))
    return Expected(dataset, weight, train, samples, sum_known(unit.tokens for unit in units))


def _branches(items: Sequence[_T]) -> Iterator[tuple[str, _T]]:
    """Each with the lines that hang it on the tree."""
    for number, item in enumerate(items, 1):
        yield ("└─ " if number == len(items) else "├─ "), item


def _name(part: Expected) -> str:
    return part.name


def _count(value: float | None) -> str:
    """`9,876`, `12.3 k`, `4.56 M`, `7.89 G`."""
    if value is None:
        return _UNKNOWN
    if value < 99_999.5:
        return f"{value:,.0f}"
    scale, unit = next(((s, u) for s, u in ((1e9, "G"), (1e6, "M")) if value >= s), (1e3, "k"))
    return f"{value / scale:.4g} {unit}"

"""T5: ways to measure affinity, side by side: the groups each finds, what it costs, and how far they agree.

The data are the study's `affinity/agreement.json`; what is not in it is `missing` here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.report.paper.grid import GridResults
from pipeline.report.paper.order import quality_and_cost
from pipeline.report.table import MISSING, Cell, Table, duration, text
from pipeline.report.tables import p_value_cell

# The ways of the issue, in their order; others that the file has follow.
VIEWS = ("distance", "cosine", "distance_raw", "cosine_raw", "distance_adam", "transferability")
TITLES = {
    "distance": "distance, corrected",
    "cosine": "cosine, corrected",
    "distance_raw": "distance, raw",
    "cosine_raw": "cosine, raw",
    "distance_adam": "distance, preconditioned (Adam)",
    "transferability": "transferability",
}


@dataclass(frozen=True)
class View:
    """One way to measure affinity. `reliability` is the rank correlation of two halves of its data; None: unknown."""

    name: str
    groups: tuple[tuple[str, ...], ...]
    seconds: float | None
    samples: float | None
    reliability: float | None
    version: str
    note: str


@dataclass(frozen=True)
class Pair:
    """Agreement of two ways: of their groups (adjusted Rand index) and of their pairs' ranks (Spearman).

    The p-values are of a permutation test against no agreement. None: too little in common to say.
    """

    a: str
    b: str
    ari: float | None
    spearman: float | None
    n_pairs: int
    ari_p: float | None = None
    spearman_p: float | None = None


@dataclass(frozen=True)
class Agreement:
    """Everything that is known about T5."""

    views: tuple[View, ...] = ()
    pairs: tuple[Pair, ...] = ()

    def names(self) -> list[str]:
        """The issue's ways first, then the others, whether they are there or not."""
        return [*VIEWS, *(view.name for view in self.views if view.name not in VIEWS)]

    def view(self, name: str) -> View | None:
        return next((view for view in self.views if view.name == name), None)

    def pair(self, a: str, b: str) -> Pair | None:
        return next((pair for pair in self.pairs if {pair.a, pair.b} == {a, b}), None)


def read_agreement(path: Path) -> Agreement:
    """The file's content; empty when there is no such file.

    Raises:
        ConfigError: the file is there but is not what `gst tables` writes.
    """
    if not path.exists():
        return Agreement()
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return Agreement(
            tuple(_view(value) for value in tree["views"]),
            tuple(_pair(value) for value in tree["pairs"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            "the agreement of affinities cannot be read",
            where={"file": path},
            got=f"{type(error).__name__}: {error}",
            expected='{"views": [{"name", "groups", ...}], "pairs": [{"a", "b", "ari", "spearman", "n_pairs"}]}',
            hint="remove the file and run `gst tables` again",
        ) from None


def agreement_tables(grid: GridResults, agreement: Agreement) -> list[Table]:
    """T5: the ways, their agreement by pair, and what the arms that use them made of it; nothing when not asked for."""
    wanted = grid.of_table("T5")
    if wanted is None:
        return []
    arms, study = wanted
    title = "T5. What the arms made of their affinity (probe included in the cost)"
    arms = [grid.spec.baseline, *(arm for arm in arms if arm != grid.spec.baseline)]
    return [
        _views_table(agreement),
        _pairs_table(agreement),
        quality_and_cost(grid, study, arms, name="T5-arms", title=title),
    ]


def _views_table(agreement: Agreement) -> Table:
    rows = []
    for name in agreement.names():
        view = agreement.view(name)
        if view is None:
            rows.append((text(TITLES.get(name, name)), *[MISSING] * 7))
            continue
        groups = " | ".join(", ".join(group) for group in view.groups)
        rows.append(
            (
                text(TITLES.get(name, name)),
                Cell(str(len(view.groups)), len(view.groups)) if view.groups else MISSING,
                MISSING if view.seconds is None else Cell(duration(view.seconds), view.seconds),
                MISSING if view.samples is None else Cell(f"{view.samples:,.0f}", view.samples),
                _decimal(view.reliability),
                text(groups or "-"),
                text(view.version or "-"),
                text(view.note or "-"),
            )
        )
    return Table(
        "T5",
        "T5. Ways to measure affinity: groups and cost",
        ("affinity", "groups", "time", "samples", "reliability", "which datasets together", "version", "note"),
        tuple(rows),
        (
            "Raw: without the correction for the noise of few batches. Preconditioned: gradients as Adam scales them. "
            "Reliability: how far two halves of the same data rank the pairs alike (1: the same); unknown where "
            "a way has no halves. Time and samples are what the measurement cost; a shared probe counts for each.",
        ),
        text_columns=frozenset({0, 5, 6, 7}),
    )


def _pairs_table(agreement: Agreement) -> Table:
    names = agreement.names()
    rows = []
    for number, a in enumerate(names):
        for b in names[number + 1 :]:
            pair = agreement.pair(a, b)
            rows.append((text(f"{TITLES.get(a, a)} / {TITLES.get(b, b)}"), *_pair_cells(pair)))
    return Table(
        "T5-agreement",
        "T5. Agreement of the ways, pair by pair",
        ("ways", "groups: adjusted Rand index", "its p", "ranks of dataset pairs: Spearman", "p", "dataset pairs"),
        tuple(rows),
        (
            "1: the same; 0: as much as by chance; p: share of permutations of the datasets' names that agree as well. "
            "Ways that come from one probe share its micro-batches, and so their noise: their agreement proves little.",
        ),
    )


def _pair_cells(pair: Pair | None) -> list[Cell]:
    if pair is None:
        return [MISSING] * 5
    numbers = [_decimal(pair.ari), p_value_cell(pair.ari_p), _decimal(pair.spearman), p_value_cell(pair.spearman_p)]
    return [*numbers, text(pair.n_pairs)]


def _view(value: dict[str, Any]) -> View:
    cost = value.get("cost") or {}
    return View(
        name=str(value["name"]),
        groups=tuple(tuple(str(name) for name in group) for group in value["groups"]),
        seconds=_number(cost.get("seconds")),
        samples=_number(cost.get("samples")),
        reliability=_number(value.get("reliability")),
        version=str(value.get("version") or ""),
        note=str(value.get("note") or ""),
    )


def _pair(value: dict[str, Any]) -> Pair:
    numbers = {key: _number(value.get(key)) for key in ("ari_p", "spearman_p")}
    ari, spearman = _number(value["ari"]), _number(value["spearman"])
    return Pair(str(value["a"]), str(value["b"]), ari, spearman, int(value["n_pairs"]), **numbers)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _decimal(value: float | None) -> Cell:
    if value is None:
        return text("unknown", mark="missing")
    return Cell(f"{value:.2f}", value) if math.isfinite(value) else Cell("NaN", value, mark="nan")

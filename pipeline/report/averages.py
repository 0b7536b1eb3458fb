"""Averages over datasets. One missing or non-finite dataset makes an average NaN: it would not be comparable."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

from pipeline.report.runs import Score

Field = Literal["loss", "token_accuracy", "exact_match"]


def weighted(scores: Mapping[str, Score], datasets: Iterable[str], field: Field) -> float:
    """Mean over datasets weighted by their number of examples in that split."""
    rows = [scores.get(name) for name in datasets]
    if not rows or any(row is None for row in rows):
        return math.nan
    known = [row for row in rows if row is not None]
    examples = sum(row.examples for row in known)
    if examples == 0:
        return math.nan
    return float(sum(row.examples * getattr(row, field) for row in known)) / examples


def macro(scores: Mapping[str, Score], datasets: Iterable[str], field: Field) -> float:
    """Plain mean over datasets."""
    rows = [scores.get(name) for name in datasets]
    if not rows or any(row is None for row in rows):
        return math.nan
    return float(sum(getattr(row, field) for row in rows)) / len(rows)

"""Averages over datasets. One missing or non-finite dataset makes an average NaN: it would not be comparable."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from pipeline.report.runs import Experiment
from pipeline.report.score import Score

# What is averaged: `loss`, `token_accuracy`, `exact_match`, or a metric of generated answers by its name.
Field = str


def weighted(scores: Mapping[str, Score], datasets: Iterable[str], field: Field) -> float:
    """Mean over datasets weighted by their number of examples in that split, however many of them were generated."""
    rows = [(scores[name].examples, scores[name].value(field)) if name in scores else (0, None) for name in datasets]
    return _mean(rows)


def macro(scores: Mapping[str, Score], datasets: Iterable[str], field: Field) -> float:
    """Plain mean over datasets."""
    return _mean([(1, scores[name].value(field) if name in scores else None) for name in datasets])


def datasets_with(experiment: Experiment, field: Field) -> list[str]:
    """Datasets for which some run has this score: all for teacher-forced ones, fewer for metrics of answers."""
    scores = [run.result.scores for run in experiment.runs]
    return [
        name
        for name in experiment.datasets
        if any(name in found and found[name].value(field) is not None for found in scores)
    ]


def _mean(rows: list[tuple[int, float | None]]) -> float:
    """Weighted mean of (weight, value) pairs; NaN when a value is missing or there is no weight."""
    total = sum(weight for weight, _ in rows)
    known = [(weight, value) for weight, value in rows if value is not None]
    if total == 0 or len(known) < len(rows):
        return math.nan
    return float(sum(weight * value for weight, value in known)) / total

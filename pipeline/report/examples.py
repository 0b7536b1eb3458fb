"""Results of single test examples (`examples-test.jsonl`), as arrays, for intervals that take the examples as a sample.

A run whose file is absent, torn or of another run keeps its place in every table; it only has no such intervals, and
`RunExamples.problem` says why.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.report.averages import Field, datasets_with
from pipeline.report.bootstrap import Part, TwoLevel, two_level
from pipeline.report.runs import Experiment, Run
from pipeline.report.score import Score

FILE = "examples-test.jsonl"
# Sums over examples and the score in result.json come from the same numbers in another order.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class DatasetExamples:
    """One dataset's test examples in the order of their ids; every array is as long as `ids`.

    `tokens`: answer tokens; `correct`: of these, right ones; `exact`: 1 where all are; `loss_sum` in nats. `metrics`
    holds the metrics of generated answers that are means over examples, NaN where an example has none.
    """

    ids: tuple[str, ...]
    tokens: np.ndarray
    correct: np.ndarray
    exact: np.ndarray
    loss_sum: np.ndarray
    metrics: Mapping[str, np.ndarray] = field(default_factory=dict)

    def ratio(self, name: Field) -> tuple[np.ndarray, np.ndarray] | None:
        """Numerators and denominators whose sums divide to the dataset's score; None when no sums do (BLEU, say)."""
        ones = np.ones(len(self.ids))
        if name in self.metrics:
            return self.metrics[name], ones
        known = {
            "token_accuracy": (self.correct, self.tokens),
            "loss": (self.loss_sum, self.tokens),
            "exact_match": (self.exact, ones),
        }
        return known.get(name)


@dataclass(frozen=True)
class RunExamples:
    """A run's examples by dataset; none, and the reason in `problem`, when its file cannot be used."""

    run: str
    datasets: Mapping[str, DatasetExamples] = field(default_factory=dict)
    problem: str = ""


class _Unusable(Exception):
    """Why examples cannot be used: it ends in `RunExamples.problem` or `TwoLevel.note`, never beyond this file."""


def read_all(experiment: Experiment) -> dict[str, RunExamples]:
    """The examples of every run, by run id."""
    return {run.id: read_examples(run) for run in experiment.runs}


def read_examples(run: Run) -> RunExamples:
    """A run's examples, checked against its scores: a file that does not add up to them is of another run."""
    path = run.folder / FILE
    if not path.exists():
        return RunExamples(run.id, problem=f"no {FILE}")
    try:
        rows = _read_rows(path)
        if rows.keys() != {name for name, score in run.result.scores.items() if score.examples}:
            raise _Unusable(f"other datasets than in result.json ({', '.join(rows)})")
        return RunExamples(run.id, {name: _dataset(name, rows[name], run.result.scores[name]) for name in sorted(rows)})
    except _Unusable as error:
        return RunExamples(run.id, problem=f"{FILE}: {error}")


def two_level_difference(
    experiment: Experiment,
    examples: Mapping[str, RunExamples],
    ours: str,
    theirs: Sequence[str],
    *,
    kind: str = "weighted",
    name: Field = "token_accuracy",
    datasets: Sequence[str] | None = None,
) -> TwoLevel:
    """Difference of `ours` from the mean of `theirs` on their common seeds, with seeds and examples as samples.

    Where it cannot be made, the result has no interval and its `note` says why.

    Args:
        kind: `weighted` (by a dataset's test examples) or `macro`, as in `averages.py`.
        datasets: those to average over; all that have the score by default.
    """
    arms = (ours, *theirs)
    seeds = sorted(set.intersection(*({run.seed for run in experiment.of_arm(arm)} for arm in arms)))
    runs = {(arm, seed): run for arm in arms for seed in seeds if (run := experiment.run(arm, seed)) is not None}
    try:
        names = datasets_with(experiment, name) if datasets is None else datasets
        parts = _parts(runs, examples, arms, seeds, names, kind, name)
    except _Unusable as error:
        return TwoLevel(math.nan, None, None, None, None, len(seeds), 0, str(error))
    return two_level(parts)


def _parts(
    runs: Mapping[tuple[str, int], Run],
    examples: Mapping[str, RunExamples],
    arms: Sequence[str],
    seeds: Sequence[int],
    datasets: Sequence[str],
    kind: str,
    name: Field,
) -> list[Part]:
    if not seeds:
        raise _Unusable("no common seed")
    weights = {}
    parts = {}
    for dataset in datasets:
        found = {key: _of_dataset(run, examples, dataset) for key, run in runs.items()}
        numerators, denominators = _stack(found, dataset, name, arms, seeds)
        weights[dataset] = len(next(iter(found.values())).ids) if kind == "weighted" else 1
        # The first arm is ours; the mean of the others is what it is compared with.
        parts[dataset] = (numerators[0] - numerators[1:].mean(axis=0), denominators)
    total = sum(weights.values())
    return [Part(*parts[dataset], share=weights[dataset] / total) for dataset in datasets]


def _of_dataset(run: Run, examples: Mapping[str, RunExamples], dataset: str) -> DatasetExamples:
    held = examples.get(run.id)
    if held is None or held.problem:
        raise _Unusable(f"{run.id}: {held.problem if held else 'its examples were not read'}")
    if dataset not in held.datasets:
        raise _Unusable(f"{run.id}: no examples of {dataset}")
    return held.datasets[dataset]


def _stack(
    found: Mapping[tuple[str, int], DatasetExamples],
    dataset: str,
    name: Field,
    arms: Sequence[str],
    seeds: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Numerators [arm, seed, example] and denominators [example], of the examples that all runs have a value for."""
    ratios = {}
    (first_arm, first_seed), reference = next(iter(found.items()))
    for (arm, seed), each in found.items():
        if each.ids != reference.ids or not np.array_equal(each.tokens, reference.tokens):
            runs = f"{arm}-s{seed} and {first_arm}-s{first_seed}"
            raise _Unusable(f"{runs} do not have the same test examples and answer tokens in {dataset}")
        ratio = each.ratio(name)
        if ratio is None:
            raise _Unusable(f"{name} is not a mean over examples in {dataset}: no interval over test examples")
        ratios[arm, seed] = ratio
    numerators = np.array([[ratios[arm, seed][0] for seed in seeds] for arm in arms], dtype=float)
    denominators = np.array(next(iter(ratios.values()))[1], dtype=float)
    if name in reference.metrics:
        generated = np.isfinite(numerators).all(axis=(0, 1))
        if not generated.any():
            raise _Unusable(f"no example of {dataset} has {name} in all runs")
        numerators, denominators = numerators[:, :, generated], denominators[generated]
    return numerators, denominators


def _read_rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows by dataset, each dataset's in the order of the ids; `_Unusable` for a torn line or an example twice."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                # Texts are not kept: a grid has many runs of the same questions.
                kept = {key: float(row[key]) for key in ("tokens", "correct", "loss_sum", "exact")}
                metrics = {str(key): float(value) for key, value in (row.get("metrics") or {}).items()}
                rows[str(row["dataset"])].append({"id": str(row["id"]), "metrics": metrics, **kept})
            except (ValueError, KeyError, TypeError, AttributeError):
                raise _Unusable(f"line {number} is torn or lacks a field") from None
    for name, its in rows.items():
        its.sort(key=lambda row: row["id"])
        twice = next((a["id"] for a, b in pairwise(its) if a["id"] == b["id"]), None)
        if twice is not None:
            raise _Unusable(f"example {twice} of {name} is there twice")
    return dict(rows)


def _dataset(name: str, rows: Sequence[Mapping[str, Any]], score: Score) -> DatasetExamples:
    """Arrays of one dataset; `_Unusable` when they do not add up to its score."""

    def column(key: str) -> np.ndarray:
        return np.array([row[key] for row in rows])

    tokens, correct, exact, loss_sum = (column(key) for key in ("tokens", "correct", "exact", "loss_sum"))
    sums = {
        "examples": (len(rows), score.examples),
        "tokens": (tokens.sum(), score.tokens),
        "token accuracy": (correct.sum() / max(tokens.sum(), 1), score.token_accuracy),
        "exact match": (exact.mean(), score.exact_match),
        "loss": (loss_sum.sum() / max(tokens.sum(), 1), score.loss),
    }
    for what, (ours, theirs) in sums.items():
        if not _same(ours, theirs):
            shown = f"{ours:.6g} against {theirs:.6g}"
            raise _Unusable(f"is of another run: {what} of {name} does not add up ({shown})")
    return DatasetExamples(
        tuple(row["id"] for row in rows), tokens, correct, exact, loss_sum, _means(rows, score.metrics)
    )


def _means(rows: Sequence[Mapping[str, Any]], scores: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Per-example values of the metrics whose mean over examples is the dataset's score."""
    found = {}
    for name, score in scores.items():
        values = np.array([row["metrics"].get(name, math.nan) for row in rows])
        if np.isfinite(values).any() and _same(float(np.nanmean(values)), score):
            found[name] = values
    return found


def _same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=_ROUNDING, abs_tol=_ROUNDING)

"""What the schedule's tests are built from: recipes, evaluations, windows of gradients, recorded runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.affinity.estimator import GradientStats
from pipeline.config import Recipe, parse_recipe
from pipeline.types import DatasetScore, EvalPoint, Spent

RECORDED = Path(__file__).parent / "recorded"
SIZES = {"a": 100, "b": 400, "c": 900, "d": 1600}
DOMAINS = {"a": "speech", "b": "speech", "c": "music", "d": "sound"}


def make_recipe(schedule: dict[str, Any], **train: Any) -> Recipe:
    tree = {
        "arm": "x", "out": "o", "model": {"path": "m"}, "data": {"shards": "s"},
        "train": {"max_steps": 100, **train}, "schedule": schedule,
    }  # fmt: skip
    return parse_recipe(tree, source="test")


def explicit(stage: dict[str, Any] | None = None, **plateau: Any) -> Recipe:
    groups = [["a", "b"], ["c"], ["d"]]
    return make_recipe(
        {"regime": "gst", "grouping": "explicit", "explicit": groups, "plateau": plateau, "stage": stage or {}}
    )


def at(step: int, **losses: float) -> EvalPoint:
    scores = {name: DatasetScore(loss * 10, 10, 5, 2, 1) for name, loss in losses.items()}
    return EvalPoint(step, samples=step * 16, tokens=step * 50, scores=scores)


def points_of(file: str) -> list[EvalPoint]:
    """The evaluations of a recorded run."""
    events = [json.loads(line) for line in (RECORDED / file).read_text().splitlines()]
    return [
        EvalPoint(
            event["step"],
            event["samples"],
            event["tokens"],
            {name: DatasetScore(score["loss"] * 100, 100, 0, 1, 0) for name, score in event["datasets"].items()},
        )
        for event in events
        if event["event"] == "eval"
    ]


def window(directions: dict[str, Any], *, noise: float = 0.1, n: int = 8, seed: int = 0) -> GradientStats:
    """Sketches of `n` micro-batches a dataset around each one's mean gradient."""
    rng = np.random.default_rng(seed)
    return GradientStats.from_batches(
        {
            name: np.asarray(mean, dtype=float) + noise * rng.standard_normal((n, len(mean)))
            for name, mean in directions.items()
        }
    )


def spent(**seconds: float) -> dict[str, Spent]:
    """A hundred examples of ten tokens each, at these seconds an example."""
    return {name: Spent(100, 1000, 100 * value) for name, value in seconds.items()}

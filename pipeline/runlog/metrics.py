"""Which numbers of an event are metrics: one rule for what is logged while a run trains and what is sent afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.config.training import SCORES

EVERY_STEPS = 10  # of the training loss; evaluations, windows and stages are rare enough to be sent each

# Fields of a `step` event that are no numbers of their own: counts, clocks, and what other events say better.
_NOT_METRICS = frozenset({"event", "t", "step", "samples", "tokens", "wall_s", "stage", "datasets"})


def metrics_of(event: Mapping[str, Any]) -> dict[str, float]:
    """Metric name -> value of one event of the log (or of `result.json`, as event `result`); most events have none.

    Names: `val/<dataset>/<score>` and `val/macro/<score>` of an evaluation, `test/...` of the result, `train/<name>` of
    every tenth step, `sketch/<name>` of a window of gradients, `stage` where a stage begins.
    """
    kind = event["event"]
    if kind == "eval":
        split = str(event["split"])
        rows = {name: {score: _number(row[score]) for score in SCORES} for name, row in event["datasets"].items()}
        return flat_numbers(split, rows) | macro_means(split, event["datasets"])
    if kind == "result":
        return flat_numbers("test", _without_nesting(event["datasets"])) | macro_means("test", event["datasets"])
    if kind == "step" and event["step"] % EVERY_STEPS == 0:
        return flat_numbers("train", {key: value for key, value in event.items() if key not in _NOT_METRICS})
    if kind == "sketch":
        return flat_numbers("sketch", {key: value for key, value in event.items() if key not in ("event", "t", "step")})
    if kind == "stage":
        return {"stage": float(event["stage"])}
    return {}


def macro_means(split: str, datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """`<split>/macro/<score>`: the mean over the datasets that have examples; nothing when none has."""
    counted = [row for row in datasets.values() if row["examples"]]
    if not counted:
        return {}
    return {f"{split}/macro/{score}": sum(_number(row[score]) for row in counted) / len(counted) for score in SCORES}


def flat_numbers(prefix: str, tree: Mapping[str, Any]) -> dict[str, float]:
    """`{"a": {"b": 1.0}}` -> `{"<prefix>/a/b": 1.0}`; whatever is not a number is left out."""
    found: dict[str, float] = {}
    for name, value in tree.items():
        key = f"{prefix}/{name}"
        if isinstance(value, Mapping):
            found |= flat_numbers(key, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = float(value)
    return found


def _without_nesting(datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Scores of generated answers stand beside the teacher-forced ones."""
    return {name: {**row, "metrics": None, **(row.get("metrics") or {})} for name, row in datasets.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)

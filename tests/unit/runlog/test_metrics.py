"""Which numbers of a run's log are metrics, and under what names."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pipeline.runlog.metrics import flat_numbers, metrics_of
from pipeline.types import DatasetScore


def score(loss: float, examples: int = 2) -> dict[str, Any]:
    return DatasetScore(loss * 10, 10 if examples else 0, 5, examples, 1).to_json()


def test_an_evaluation_gives_scores_and_the_mean_over_datasets_with_examples() -> None:
    datasets = {"a": score(1.0), "b": score(3.0), "none": score(0.0, examples=0)}
    metrics = metrics_of({"event": "eval", "split": "val", "t": 1.0, "step": 4, "stage": 1, "datasets": datasets})
    assert metrics["val/b/loss"] == 3.0 and metrics["val/a/token_accuracy"] == 0.5
    assert metrics["val/macro/loss"] == 2.0 and metrics["val/macro/exact_match"] == 0.5
    assert math.isnan(metrics["val/none/loss"]) and len(metrics) == 4 * 3
    assert metrics_of({"event": "eval", "split": "val", "t": 1.0, "step": 4, "datasets": {}}) == {}


def test_every_tenth_step_gives_loss_rate_norm_and_what_strategies_saw() -> None:
    event = {
        "event": "step", "t": 1.0, "step": 20, "samples": 80, "tokens": 300, "wall_s": 2.0, "loss": 1.5, "lr": 0.1,
        "grad_norm": 2.0, "stage": 1, "datasets": {"a": {"n": 4, "loss": 1.5}}, "clip_limit": 0.7,
    }  # fmt: skip
    expected = {"train/loss": 1.5, "train/lr": 0.1, "train/grad_norm": 2.0, "train/clip_limit": 0.7}
    assert metrics_of(event) == expected
    assert metrics_of({**event, "step": 21}) == {}


def test_the_result_gives_both_kinds_of_scores() -> None:
    row = {**score(1.0), "metrics": {"wer": 1.25}, "generated": 2}
    metrics = metrics_of({"event": "result", "t": 9.0, "step": 30, "datasets": {"a": row}})
    assert metrics["test/a/loss"] == 1.0 and metrics["test/a/wer"] == 1.25 and metrics["test/macro/loss"] == 1.0
    assert not any("metrics" in key for key in metrics)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"event": "stage", "stage": 2, "pool": ["a"], "weights": {"a": 1.0}}, {"stage": 2.0}),
        ({"event": "sketch", "cosine": {"a": {"b": 0.5}}, "note": "x"}, {"sketch/cosine/a/b": 0.5}),
        ({"event": "checkpoint"}, {}),
        ({"event": "decision", "advanced": True, "reason": {"slope": 0.1}}, {}),
        ({"event": "test", "seconds": 0.1, "examples": 4}, {}),
    ],
)
def test_other_events(event: dict[str, Any], expected: dict[str, float]) -> None:
    assert metrics_of({**event, "t": 1.0, "step": 10}) == expected


def test_what_is_read_back_from_the_log_gives_the_same() -> None:
    datasets = {"a": score(1 / 3), "b": score(0.1 + 0.2)}
    event = {"event": "eval", "split": "val", "t": 1.0, "step": 4, "datasets": datasets}
    assert metrics_of(json.loads(json.dumps(event))) == metrics_of(event)


def test_nested_numbers_are_flattened_and_words_left_out() -> None:
    tree = {"dropped": 0, "mean_cosine": None, "note": "x", "ok": True, "cosine": {"a": {"b": 0.5}}}
    assert flat_numbers("sketch", tree) == {"sketch/dropped": 0.0, "sketch/cosine/a/b": 0.5}

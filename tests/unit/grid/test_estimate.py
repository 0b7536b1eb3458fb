"""How long tasks take: from one short run, and from what was measured since."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import load_recipe
from pipeline.grid.estimate import COMPUTED_S, Forecast, Speed, measure
from pipeline.grid.tasks import Task

SPEED = Speed(start=10.0, step=0.5, evaluation=2.0, test=7.0)
RECIPE = load_recipe(
    "mini-gst-t2",
    ["train.max_steps=40", "train.eval_every=10", "train.global_batch=16", "probe.warmup_steps=20", "transfer.steps=6",
     "probe.batches_per_dataset=8", "probe.micro_batch=4"],
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("train", 10 + 40 * 0.5 + 5 * 2 + 7),
        ("search", 10 + 40 * 0.5 + 5 * 2 + 7),
        ("score", 10 + 7),
        ("probe", 10 + 20 * 0.5 + 3 * 8 * 4 / 16 * 0.5),
        ("transfer", 10 + 20 * 0.5 + 3 * (6 * 0.5 + 2)),
    ],
)
def test_a_task_takes_what_its_parts_take(kind: str, seconds: float) -> None:
    assert SPEED.of(Task("t", kind, "s"), RECIPE, n_datasets=3) == pytest.approx(seconds)  # type: ignore[arg-type]


def test_speed_is_read_from_a_short_run(tmp_path: Path) -> None:
    events = [
        {"event": "stage", "t": 110.0, "step": 0}, {"event": "eval", "t": 112.0, "step": 0},
        {"event": "decision", "t": 112.0, "step": 0}, {"event": "step", "t": 113.5, "step": 1},
        {"event": "step", "t": 114.0, "step": 2}, {"event": "step", "t": 114.5, "step": 3},
        {"event": "eval", "t": 116.5, "step": 3}, {"event": "test", "t": 123.5, "step": 3, "seconds": 5.0,
                                                   "generate_seconds": 2.0},
    ]  # fmt: skip
    (tmp_path / "events-rank0.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert measure(tmp_path, launched=102.0) == Speed(start=10.0, step=0.5, evaluation=2.0, test=7.0)
    with pytest.raises(ValueError, match="to measure"):
        measure(tmp_path / "nothing", launched=0.0)


def test_what_was_measured_replaces_what_was_predicted() -> None:
    tasks = [Task(f"s/{n}", "train", "s") for n in range(4)]
    other, computed = Task("u/0", "train", "u"), Task("s/group", "group", "s")
    forecast = Forecast({task.name: 100.0 for task in [*tasks, other]})
    assert forecast.total([*tasks, other, computed]) == 500 + COMPUTED_S
    for seconds in (30.0, 50.0, 40.0):
        forecast.saw(tasks[0], seconds)
    assert forecast.seconds(tasks[3]) == 40.0 and forecast.seconds(other) == 100.0
    assert forecast.total(tasks, workers=2) == 80.0

"""Tuning the baseline from the event logs of its candidate runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pipeline.config.grid import GridSpec, load_scale
from pipeline.grid.search import choose, final_loss


@pytest.fixture(scope="module")
def grid() -> GridSpec:
    return load_scale("quick", family="mini")


def write_run(out: Path, name: str, *losses: dict[str, float]) -> Path:
    folder = out / "tune" / "arms" / f"{name}-s1000"
    folder.mkdir(parents=True)
    with open(folder / "events-rank0.jsonl", "w") as file:
        for step, each in enumerate(losses):
            scores = {dataset: {"loss": loss} for dataset, loss in each.items()}
            file.write(json.dumps({"event": "eval", "split": "val", "step": step, "datasets": scores}) + "\n")
    return folder


def test_the_last_evaluation_counts_each_dataset_alike(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a", {"x": 1.0, "y": 0.1}, {"x": 2.0, "y": 4.0})
    assert final_loss(folder) == 3.0
    assert final_loss(tmp_path / "no-such-run") is None
    assert final_loss(write_run(tmp_path, "b", {"x": 1.0, "y": math.nan})) == math.inf


def test_each_axis_is_answered_with_the_best_of_those_before(grid: GridSpec, tmp_path: Path) -> None:
    for name, loss in (("t2", 2.0), ("proportional", 1.5), ("uniform", 1.8)):
        write_run(tmp_path, f"weights-{name}", {"x": loss})
    first = choose(grid, tmp_path)
    assert first.chosen == {"weights": "proportional"}
    assert first.weights == ("schedule.weights.kind=proportional",) and first.overrides == ()
    write_run(tmp_path, "lr-half", {"x": 1.6})
    assert choose(grid, tmp_path) == first  # the axis has a run to come
    write_run(tmp_path, "lr-double", {"x": 1.4})
    both = choose(grid, tmp_path)
    assert both.chosen == {"weights": "proportional", "lr": "double"}
    assert both.overrides == ("train.optimizer.lr=1.2e-2",)
    # What was found so far is a candidate of the next axis, with the loss it had.
    assert both.scores == {
        "weights: t2": 2.0, "weights: proportional": 1.5, "weights: uniform": 1.8,
        "lr: as-is": 1.5, "lr: half": 1.6, "lr: double": 1.4,
    }  # fmt: skip
    assert choose(grid, tmp_path, before="lr") == first
    assert choose(grid, tmp_path, before="weights").chosen == {}


def test_no_candidate_better_leaves_things_as_they_are(grid: GridSpec, tmp_path: Path) -> None:
    for name in ("weights-t2", "weights-proportional", "weights-uniform", "lr-half", "lr-double"):
        write_run(tmp_path, name, {"x": 1.0})
    tuned = choose(grid, tmp_path)
    assert tuned.chosen == {"weights": "t2", "lr": "as-is"} and tuned.overrides == ()


def test_a_candidate_that_diverged_is_never_chosen(grid: GridSpec, tmp_path: Path) -> None:
    for name, loss in (("t2", math.nan), ("proportional", 9.0), ("uniform", math.nan)):
        write_run(tmp_path, f"weights-{name}", {"x": loss, "y": 1.0})
    assert choose(grid, tmp_path).chosen == {"weights": "proportional"}

"""Run folders as training leaves them, without training; and what a tracking store has of them."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

from pipeline.config import dump_recipe, parse_recipe
from pipeline.runlog import EventLog, MlflowLog, RunFolder
from pipeline.types import DatasetScore

DATASETS = ("animal", "number")


def make_run(out: Path, arm: str = "x", seed: int = 0, *, uri: str | None, run_id: str | None = None) -> RunFolder:
    """A run that has begun. Its MLflow experiment is named after `out`'s parent, so that tests can share a store."""
    tree = {
        "arm": arm, "out": str(out), "model": {"path": "m"}, "data": {"shards": "s"},
        "train": {"max_steps": 40, "seed": seed},
        "logging": {"experiment": out.parent.name, "tracking_uri": uri},
    }  # fmt: skip
    folder = out / "arms" / f"{arm}-s{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = parse_recipe(tree, source="test")
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    write_info(folder, arm=arm, run_id=run_id or uuid.uuid4().hex, status="running", finished=None)
    return RunFolder(folder, recipe)


def write_info(folder: Path, **changes: Any) -> None:
    """`run.json`, or some of its fields anew."""
    file = folder / "run.json"
    info = json.loads(file.read_text()) if file.exists() else {
        "started": time.time() - 60, "git_sha": "abc", "code_digest": "c0de", "config_digest": "d1", "world_size": 2,
        "data_digests": {name: name[0] * 64 for name in DATASETS},
        "examples": {name: {"train": 24, "val": 6, "test": 6} for name in DATASETS},
    }  # fmt: skip
    file.write_text(json.dumps({**info, **changes}))


def train(folder: RunFolder, steps: range, log: MlflowLog | None = None, *, resume: bool = False) -> None:
    """What a trainer would write of these steps, and send when `log` is given: the same numbers every time."""
    events = EventLog(folder.path, rank=0)

    def write(event: str, **fields: Any) -> None:
        written = events.write(event, **fields)
        if log:
            log.event(written)

    if resume:
        write("resume", step=steps.start - 1)
    if steps.start == 1:
        write("stage", step=0, stage=0, pool=list(DATASETS), weights={})
        write("eval", step=0, split="val", datasets=scores(0))
    for step in steps:
        write("step", step=step, loss=10 / step, lr=0.1, grad_norm=1.0, samples=8 * step, datasets={})
        if step % 5 == 0:
            write("eval", step=step, split="val", datasets=scores(step))
    events.close()


def finish(folder: RunFolder, step: int) -> None:
    """Result and status, as `gst train` leaves them."""
    write_info(folder.path, status="finished", finished=time.time())
    (folder.path / "result.json").write_text(json.dumps({"step": step, "datasets": scores(step)}))
    (folder.path / "examples-test.jsonl").write_text("{}\n")


def scores(step: int) -> dict[str, Any]:
    return {name: DatasetScore(100.0 / (step + 1), 10, 5, 2, 1).to_json() for name in DATASETS}


def histories(client: Any, run_id: str) -> dict[str, list[tuple[int, float, int]]]:
    """Metric -> its points (step, value, time in ms), in the order the store gives them."""
    keys = client.get_run(run_id).data.metrics
    return {
        key: [(point.step, point.value, point.timestamp) for point in client.get_metric_history(run_id, key)]
        for key in keys
    }


def assert_no_doubles(client: Any, run_id: str) -> None:
    for key, points in histories(client, run_id).items():
        steps = [step for step, _, _ in points]
        assert steps == sorted(set(steps)), f"{key}: {steps}"


def all_runs(client: Any, experiment: str) -> dict[str, list[Any]]:
    """Kind (grid, experiment, arm, seed) -> its runs."""
    found: dict[str, list[Any]] = {}
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    for run in client.search_runs([experiment_id]):
        found.setdefault(run.data.tags["audio_gst.kind"], []).append(run)
    return found

"""The event log survives a kill; MLflow is a convenience that may fail."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from pipeline.config import parse_recipe
from pipeline.runlog import EventLog, MlflowLog, flat_numbers
from pipeline.runlog.events import read_event_lines
from pipeline.runlog.mlflow_log import BATCH_LIMIT


def recipe(tmp_path: Path, **logging: str):
    tree = {
        "arm": "x", "out": str(tmp_path / "mini"), "model": {"path": "m"}, "data": {"shards": "s"},
        "train": {"max_steps": 1}, "logging": {"experiment": "e", **logging},
    }  # fmt: skip
    (tmp_path / "mini").mkdir()
    return parse_recipe(tree, source="test")


def test_a_torn_last_line_costs_that_line_only(tmp_path: Path) -> None:
    log = EventLog(tmp_path, rank=1)
    log.write("step", step=1)
    log.write("step", step=2)
    log.close()
    torn = log.path.read_text()[:-4]
    log.path.write_text(torn)
    again = EventLog(tmp_path, rank=1)
    again.write("resume", step=1)
    again.close()
    events = read_event_lines(tmp_path / "events-rank1.jsonl")[0]
    assert [(event["event"], event["step"]) for event in events] == [("step", 1), ("resume", 1)]


@pytest.mark.slow
def test_runs_metrics_and_parents_reach_a_real_store(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    first = MlflowLog(config, "mini-x-s0", {"git_sha": "abc"})
    first.metrics({"train/loss": 2.0}, step=1)
    first.metrics({"train/loss": 1.5}, step=2)
    again = MlflowLog(config, "ignored", {}, resume_run_id=first.run_id)
    again.metrics({"train/loss": 1.2}, step=3)
    again.metrics({f"sketch/cosine/a/b{i}": 0.5 for i in range(BATCH_LIMIT + 1)}, step=3)
    again.finish("FINISHED")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mini' / 'mlflow.db'}")
    history = client.get_metric_history(first.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.5), (3, 1.2)]
    assert client.get_metric_history(first.run_id, f"sketch/cosine/a/b{BATCH_LIMIT}")[0].value == 0.5
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED" and run.data.tags["git_sha"] == "abc" and run.data.params["arm"] == "x"
    assert client.get_run(run.data.tags["mlflow.parentRunId"]).info.run_name == "mini"


def test_nested_numbers_are_flattened_and_words_left_out() -> None:
    tree = {"dropped": 0, "mean_cosine": None, "note": "x", "ok": True, "cosine": {"a": {"b": 0.5}}}
    assert flat_numbers("sketch", tree) == {"sketch/dropped": 0.0, "sketch/cosine/a/b": 0.5}


def test_a_store_that_is_down_costs_nothing_but_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    log = MlflowLog(recipe(tmp_path, tracking_uri=f"sqlite:///{blocked}/mlflow.db"), "x", {})
    log.metrics({"a": 1.0}, 1)
    log.finish("FINISHED")
    assert log.run_id is None
    assert sum("MLflow is not reachable" in record.message for record in caplog.records) == 1

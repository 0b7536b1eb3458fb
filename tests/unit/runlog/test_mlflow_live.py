"""What a run logs while it trains, in a real SQLite store: one run each, every point once, failures survived."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.runlog import MlflowLog, mlflow_log
from pipeline.runlog.mlflow_store import SHORT_LIMITS, connect
from tests.unit.runlog.run_folders import (
    DATASETS,
    all_runs,
    assert_no_doubles,
    finish,
    histories,
    make_run,
    train,
)  # fmt: skip


def test_a_whole_run_reaches_the_store(tmp_path: Path, store: str) -> None:
    folder = make_run(tmp_path / "mini", uri=store)
    log = MlflowLog(folder)
    train(folder, range(1, 21), log)
    client = connect(store, {})
    runs = all_runs(client, tmp_path.name)
    assert {kind: run.info.status for kind, (run,) in runs.items()} == dict.fromkeys(
        ("experiment", "arm", "seed"), "RUNNING"
    )
    finish(folder, 20)
    log.finish()
    (seed,), (arm,), (experiment,) = (all_runs(client, tmp_path.name)[kind] for kind in ("seed", "arm", "experiment"))
    assert log.run_id == seed.info.run_id
    assert [run.info.run_name for run in (experiment, arm, seed)] == ["mini", "mini-x", "mini-x-s0"]
    assert seed.data.tags["mlflow.parentRunId"] == arm.info.run_id
    assert arm.data.tags["mlflow.parentRunId"] == experiment.info.run_id
    assert {run.info.status for run in (experiment, arm, seed)} == {"FINISHED"}
    assert all(run.data.tags["mlflow.note.content"] for run in (experiment, arm, seed))
    assert {seed.data.tags[key] for key in ("git_sha", "code_digest", "config_digest")} == {"abc", "c0de", "d1"}
    assert seed.data.tags["world_size"] == "2" and seed.data.params["seed"] == "0"
    points = histories(client, seed.info.run_id)
    assert [step for step, _, _ in points["val/macro/loss"]] == [0, 5, 10, 15, 20]
    assert [(step, value) for step, value, _ in points["train/loss"]] == [(10, 1.0), (20, 0.5)]
    assert [step for step, _, _ in points["test/animal/loss"]] == [20]
    inputs = {each.dataset.name: each for each in seed.inputs.dataset_inputs}
    assert set(inputs) == set(DATASETS)
    assert inputs["animal"].dataset.digest == "a" * 36 and '"train": 24' in inputs["animal"].dataset.profile
    assert inputs["animal"].tags[0].value == "train,val,test"
    assert inputs["animal"].dataset.source == '{"uri": "s/animal"}'
    files = {each.path for each in client.list_artifacts(seed.info.run_id)}
    assert files == {"recipe.yaml", "run.json", "result.json", "examples-test.jsonl"}


def test_a_point_bears_the_time_of_its_event(tmp_path: Path, store: str) -> None:
    folder = make_run(tmp_path / "mini", uri=store)
    log = MlflowLog(folder)
    log.event({"event": "stage", "t": 1_700_000_000.125, "step": 3, "stage": 1})
    assert log.run_id
    assert histories(connect(store, {}), log.run_id)["stage"] == [(3, 1.0, 1_700_000_000_125)]


def test_what_a_resumed_run_repeats_is_not_logged_again(tmp_path: Path, store: str) -> None:
    folder = make_run(tmp_path / "mini", uri=store)
    train(folder, range(1, 18), MlflowLog(folder))  # killed before any checkpoint: begins again
    train(folder, range(1, 28), MlflowLog(folder))  # killed after one at 20
    log = MlflowLog(folder)
    train(folder, range(21, 41), log, resume=True)
    finish(folder, 40)
    log.finish()
    client = connect(store, {})
    (seed,) = all_runs(client, tmp_path.name)["seed"]
    assert_no_doubles(client, seed.info.run_id)
    points = histories(client, seed.info.run_id)
    assert [step for step, _, _ in points["val/animal/loss"]] == list(range(0, 41, 5))
    assert [step for step, _, _ in points["train/loss"]] == [10, 20, 30, 40]


def test_a_fresh_start_is_another_run_and_the_old_one_says_so(tmp_path: Path, store: str) -> None:
    old = make_run(tmp_path / "mini", uri=store)
    train(old, range(1, 12), MlflowLog(old))
    new = make_run(tmp_path / "mini", uri=store)  # another run_id, as `--resume never` gives
    log = MlflowLog(new)
    train(new, range(1, 21), log)
    finish(new, 20)
    log.finish()
    client = connect(store, {})
    runs = {run.info.run_id == log.run_id: run for run in all_runs(client, tmp_path.name)["seed"]}
    assert runs[False].info.status == "KILLED" and runs[False].data.tags["audio_gst.superseded_by"] == log.run_id
    assert runs[False].info.run_name == "(superseded) mini-x-s0" and runs[True].info.run_name == "mini-x-s0"
    assert [step for step, _, _ in histories(client, runs[True].info.run_id)["val/macro/loss"]] == [0, 5, 10, 15, 20]
    (arm,) = all_runs(client, tmp_path.name)["arm"]
    assert arm.info.status == "FINISHED"  # the superseded run does not count


def test_runs_that_start_together_share_one_arm_and_one_parent(tmp_path: Path, store: str) -> None:
    folders = [make_run(tmp_path / "mini", arm, seed, uri=store) for arm in "xy" for seed in range(3)]
    with ThreadPoolExecutor(6) as pool:
        logs = list(pool.map(MlflowLog, folders))
    runs = all_runs(connect(store, {}), tmp_path.name)
    assert {kind: len(found) for kind, found in runs.items()} == {"experiment": 1, "arm": 2, "seed": 6}
    logs[0].stop("FAILED")
    assert {run.info.status for run in all_runs(connect(store, {}), tmp_path.name)["arm"]} == {"RUNNING"}
    for log in logs[1:]:
        log.stop("FINISHED")
    arms = all_runs(connect(store, {}), tmp_path.name)["arm"]
    assert {run.data.tags["arm"]: run.info.status for run in arms} == {"x": "FAILED", "y": "FINISHED"}


def test_two_folders_of_one_name_are_two_experiments(tmp_path: Path, store: str) -> None:
    outs = [tmp_path / "here" / "mini", tmp_path / "there" / "mini"]
    folders = [make_run(out, uri=store, run_id=f"{number}" * 32) for number, out in enumerate(outs)]
    for folder in folders:
        log = folder.recipe.logging.model_copy(update={"experiment": tmp_path.name})
        recipe = folder.recipe.model_copy(update={"logging": log})
        assert MlflowLog(type(folder)(folder.path, recipe)).run_id
    assert len(all_runs(connect(store, {}), tmp_path.name)["experiment"]) == 2


def test_the_studies_of_a_grid_share_a_store_and_a_parent(tmp_path: Path, store: str) -> None:
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "grid.yaml").write_text("")
    for study in ("full", "low"):
        folder = make_run(tmp_path / "grid" / study, uri=store)
        assert folder.tracking_uri == store
        MlflowLog(folder).stop("FINISHED")
        alone = folder.recipe.logging.model_copy(update={"tracking_uri": None})
        recipe = folder.recipe.model_copy(update={"logging": alone})
        assert type(folder)(folder.path, recipe).tracking_uri == f"sqlite:///{tmp_path / 'grid' / 'mlflow.db'}"
    runs = all_runs(connect(store, {}), "grid")
    (grid,) = runs["grid"]
    assert sorted(run.info.run_name for run in runs["experiment"]) == ["grid/full", "grid/low"]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs["experiment"]} == {grid.info.run_id}
    assert grid.info.status == "FINISHED"


def test_a_store_that_is_down_costs_nothing_but_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    folder = make_run(tmp_path / "mini", uri=f"sqlite:///{tmp_path}/file/mlflow.db")
    log = MlflowLog(folder)
    train(folder, range(1, 21), log)
    finish(folder, 20)
    log.finish()
    assert log.run_id is None
    assert sum("MLflow is not reachable" in record.message for record in caplog.records) == 1


def test_a_damaged_store_costs_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    assert MlflowLog(make_run(tmp_path / "mini", uri=f"sqlite:///{tmp_path}/mlflow.db")).run_id is None
    assert "gst report" in caplog.text and "--sync" in caplog.text


def test_after_a_pause_a_store_is_asked_again(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_log, "PAUSE_S", 0.0)
    folder = make_run(tmp_path / "mini", uri=store)
    lock = tmp_path / "mini" / "mlflow.lock"
    lock.mkdir()  # cannot be opened
    log = MlflowLog(folder)
    train(folder, range(1, 11), log)
    assert log.run_id is None
    lock.rmdir()
    train(folder, range(11, 21), log)
    assert log.run_id
    assert [step for step, _, _ in histories(connect(store, {}), log.run_id)["train/loss"]] == [20]


def test_files_that_find_no_place_do_not_cost_the_metrics(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_log, "PAUSE_S", 0.0)
    folder = make_run(tmp_path / "mini", uri=store)
    (tmp_path / "mini" / "mlartifacts").write_text("not a folder")
    log = MlflowLog(folder)
    train(folder, range(1, 11), log)
    finish(folder, 10)
    log.finish()
    (run,) = all_runs(connect(store, {}), tmp_path.name)["seed"]
    assert run.info.status == "FINISHED" and run.data.metrics["train/loss"] == 1.0
    assert "test/macro/loss" in run.data.metrics and run.data.params["arm"] == "x"


@pytest.fixture
def hanging_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_never_answers_does_not_hold_training_up(
    tmp_path: Path, hanging_server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # the user's own limit; ours would be 10 s
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = make_run(tmp_path / "mini", uri=hanging_server.replace("//", "//me:secret@"))
    log = MlflowLog(folder)
    train(folder, range(1, 500), log)  # at a second a call this would outlast every patience
    assert log.run_id is None
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "1" and "secret" not in caplog.text
    assert sum("MLflow is not reachable" in record.message for record in caplog.records) == 1


def test_without_limits_of_the_users_own_ours_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    for name in SHORT_LIMITS:
        monkeypatch.setenv(name, "1")  # so that what `connect` sets is taken back at the end
        monkeypatch.delenv(name)
    connect("http://127.0.0.1:9", SHORT_LIMITS)
    assert (MLFLOW_HTTP_REQUEST_TIMEOUT.get(), MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()) == (10, 1)

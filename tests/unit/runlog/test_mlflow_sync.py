"""After an outage the store gets what it lacks, once, in whatever state it is; reports replace each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.mlflow_sync import send_report, sync_runs
from pipeline.errors import ConfigError, TrackingError
from pipeline.runlog import MlflowLog, mlflow_run
from pipeline.runlog.mlflow_store import connect
from tests.unit.runlog.run_folders import all_runs, assert_no_doubles, finish, histories, make_run, train, write_info


def one_run(store: str, experiment: str) -> tuple[Any, Any]:
    client = connect(store, {})
    (run,) = all_runs(client, experiment)["seed"]
    return client, run


def test_runs_that_never_logged_are_made_once(tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        folder = make_run(tmp_path / "mini", seed=seed, uri=store)
        train(folder, range(1, 21))
        finish(folder, 20)
    sync_runs(tmp_path / "mini")
    said = capsys.readouterr().out.splitlines()
    n_points = 1 + 5 * 9 + 2 * 3 + 13  # stage, evaluations, steps, result
    assert [line.endswith(f"{n_points} points sent to MLflow") for line in said] == [True, True]
    client = connect(store, {})
    runs = all_runs(client, tmp_path.name)
    assert {kind: len(found) for kind, found in runs.items()} == {"experiment": 1, "arm": 1, "seed": 2}
    assert {run.info.status for found in runs.values() for run in found} == {"FINISHED"}
    before = {run.info.run_id: histories(client, run.info.run_id) for run in runs["seed"]}
    assert {json.loads(file.read_text())["mlflow_run_id"] for file in tmp_path.rglob("run.json")} == set(before)
    sync_runs(tmp_path / "mini")
    assert capsys.readouterr().out.count("0 points sent to MLflow, nothing was missing") == 2
    assert {run.info.run_id: histories(client, run.info.run_id) for run in runs["seed"]} == before
    assert {run.info.run_name for run in runs["seed"]} == {"mini-x-s0", "mini-x-s1"}


def test_live_and_sent_later_are_the_same(tmp_path: Path, store: str) -> None:
    folder = make_run(tmp_path / "mini", uri=store)
    log = MlflowLog(folder)
    train(folder, range(1, 21), log)
    finish(folder, 20)
    log.finish()
    sync_runs(tmp_path / "mini", f"sqlite:///{tmp_path}/other.db")
    assert log.run_id
    (other,) = all_runs(connect(f"sqlite:///{tmp_path}/other.db", {}), tmp_path.name)["seed"]
    client = connect(store, {})
    assert histories(connect(f"sqlite:///{tmp_path}/other.db", {}), other.info.run_id) == histories(client, log.run_id)
    live = client.get_run(log.run_id)
    assert live.data.params == other.data.params
    ours = {key: value for key, value in live.data.tags.items() if "parent" not in key}
    assert ours == {key: value for key, value in other.data.tags.items() if "parent" not in key}


def test_gaps_are_filled_and_void_stretches_left_out(tmp_path: Path, store: str) -> None:
    folder = make_run(tmp_path / "mini", uri=store)
    train(folder, range(1, 13), MlflowLog(folder))
    train(folder, range(13, 28))  # the store is down
    train(folder, range(21, 33), MlflowLog(folder), resume=True)  # up again; 21 to 27 were lost and repeated
    train(folder, range(33, 41))
    finish(folder, 40)
    sync_runs(tmp_path / "mini")
    client, run = one_run(store, tmp_path.name)
    assert_no_doubles(client, run.info.run_id)
    points = histories(client, run.info.run_id)
    assert [step for step, _, _ in points["val/animal/loss"]] == list(range(0, 41, 5))
    assert [step for step, _, _ in points["train/loss"]] == [10, 20, 30, 40]
    assert run.info.status == "FINISHED"


def test_a_sync_that_is_killed_half_way_is_finished_by_the_next(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path / "mini", uri=store)
    train(folder, range(1, 41))
    finish(folder, 40)
    monkeypatch.setattr(mlflow_run, "BATCH_LIMIT", 7)
    send, calls = mlflow_run.SeedRun.send, []

    def dies(self: Any, points: Any) -> None:
        calls.append(len(points))
        send(self, points[:30])
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow_run.SeedRun, "send", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            sync_runs(tmp_path / "mini")
    monkeypatch.setattr(mlflow_run.SeedRun, "send", send)
    sync_runs(tmp_path / "mini")
    assert calls[0] - calls[1] == 30
    client, run = one_run(store, tmp_path.name)
    assert_no_doubles(client, run.info.run_id)
    assert sum(len(points) for points in histories(client, run.info.run_id).values()) == calls[0]


def test_a_run_in_progress_stays_in_progress(tmp_path: Path, store: str) -> None:
    folder = make_run(tmp_path / "mini", uri=store)
    log = MlflowLog(folder)
    train(folder, range(1, 13), log)
    (folder.path / "result.json").write_text("{}")  # of an earlier training
    sync_runs(tmp_path / "mini")
    train(folder, range(13, 21), log)
    client, run = one_run(store, tmp_path.name)
    assert run.info.status == "RUNNING" and run.info.run_id == log.run_id
    assert_no_doubles(client, run.info.run_id)
    assert "test/macro/loss" not in run.data.metrics
    assert "result.json" not in {each.path for each in client.list_artifacts(run.info.run_id)}


def test_more_points_than_a_request_takes(tmp_path: Path, store: str) -> None:
    folder = make_run(tmp_path / "mini", uri=store)
    wide = {"event": "sketch", "t": 1.7e9, "step": 4, "cosine": {f"d{i}": 0.5 for i in range(2345)}}
    (folder.path / "events-rank0.jsonl").write_text(json.dumps(wide) + "\n")
    sync_runs(tmp_path / "mini")
    _, run = one_run(store, tmp_path.name)
    assert len(run.data.metrics) == 2345


def test_a_grid_is_every_study_of_it(tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "grid.yaml").write_text("")
    for study in ("full", "low"):
        folder = make_run(tmp_path / "papers" / study, uri=store)
        train(folder, range(1, 11))
        finish(folder, 10)
    sync_runs(tmp_path / "papers")
    assert capsys.readouterr().out.count("points sent") == 2
    assert {kind: len(found) for kind, found in all_runs(connect(store, {}), "papers").items()} == {
        "grid": 1, "experiment": 2, "arm": 2, "seed": 2
    }  # fmt: skip
    write_report(tmp_path / "papers", "report.html", "tables/t1.csv")
    send_report(tmp_path / "papers")
    assert files_of_report(store, "papers", "grid") == {"report/report.html", "report/tables/t1.csv"}


def test_a_moved_folder_is_the_same_experiment(tmp_path: Path, store: str) -> None:
    folder = make_run(tmp_path / "mini", uri=store)
    train(folder, range(1, 11), MlflowLog(folder))
    shutil.move(tmp_path / "mini", tmp_path / "renamed")
    finish(make_moved(tmp_path / "renamed"), 10)
    sync_runs(tmp_path / "renamed")
    assert {kind: len(found) for kind, found in all_runs(connect(store, {}), tmp_path.name).items()} == {
        "experiment": 1, "arm": 1, "seed": 1
    }  # fmt: skip


def make_moved(out: Path) -> Any:
    from pipeline.cli.mlflow_sync import run_folders

    return next(run_folders(out))


def test_a_run_that_cannot_be_read_is_named_and_the_others_go(
    tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good, torn = (make_run(tmp_path / "mini", seed=seed, uri=store) for seed in (0, 1))
    train(good, range(1, 11))
    (torn.path / "run.json").write_text("{")
    sync_runs(tmp_path / "mini")
    said = capsys.readouterr().out
    assert "x-s1: left out, because it cannot be read" in said and "x-s0: 31 points sent" in said


def test_a_store_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "mini", uri=None)
    train(folder, range(1, 11))
    with pytest.raises(TrackingError) as caught:
        sync_runs(tmp_path / "mini", "postgresql+nodriver://me:secret@127.0.0.1:1/db")
    assert "postgresql+nodriver://me:***@127.0.0.1:1/db" in str(caught.value) and "secret" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="tracking store"):
        sync_runs(tmp_path / "mini", f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(ConfigError, match="nothing was trained here"):
        sync_runs(tmp_path / "nothing")


def write_report(out: Path, *names: str) -> None:
    shutil.rmtree(out / "report", ignore_errors=True)
    for name in names:
        (out / "report" / name).parent.mkdir(parents=True, exist_ok=True)
        (out / "report" / name).write_text(name)


def files_of_report(store: str, experiment: str, kind: str) -> set[str]:
    client = connect(store, {})
    (run,) = all_runs(client, experiment)[kind]

    def below(path: str) -> set[str]:
        found: set[str] = set()
        for each in client.list_artifacts(run.info.run_id, path):
            found |= below(each.path) if each.is_dir else {each.path}
        return found

    return below("report")


def test_a_report_takes_the_place_of_the_one_before(tmp_path: Path, store: str) -> None:
    folder = make_run(tmp_path / "mini", uri=store)
    log = MlflowLog(folder)
    train(folder, range(1, 11), log)
    write_info(folder.path, mlflow_run_id=log.run_id)
    write_report(tmp_path / "mini", "report.md", "tables/cost.csv", "figures/old.png")
    send_report(tmp_path / "mini")
    write_report(tmp_path / "mini", "report.md", "tables/cost.csv", "figures/new.png")
    send_report(tmp_path / "mini")
    expected = {"report/report.md", "report/tables/cost.csv", "report/figures/new.png"}
    assert files_of_report(store, tmp_path.name, "experiment") == expected


def test_a_report_does_not_fail_because_a_store_is_gone(
    tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "mini", uri=store)
    write_report(tmp_path / "mini", "report.md")
    send_report(tmp_path / "mini")  # nothing was ever logged: nothing to do, nothing to say
    assert capsys.readouterr().out == ""
    write_info(folder.path, mlflow_run_id="f" * 32)
    (tmp_path / "file").write_text("")
    send_report(tmp_path / "mini", tracking_uri=f"sqlite:///{tmp_path}/file/mlflow.db")
    assert "the report is not in MLflow" in capsys.readouterr().out

"""Real trainings that are killed, real servers that hang or come late: MLflow ends up with every point once."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from pipeline.cli.mlflow_sync import run_folders
from pipeline.dist import free_port
from pipeline.runlog.events import read_event_lines
from pipeline.runlog.mlflow_store import connect
from tests.launching import BIN, ROOT, environment, kill_all, run_command, run_ranks, start_ranks
from tests.unit.runlog.run_folders import all_runs, assert_no_doubles, histories, make_run

pytestmark = [pytest.mark.dist, pytest.mark.slow]
MODULE = "pipeline.cli.train"
EXPERIMENT = "outages"


@pytest.fixture
def recipe(tone_shards: Path, tiny_model: Path, tmp_path: Path) -> Path:
    """24 steps into <tmp>/run, with checkpoints at 8, 16 and 24."""
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"""
arm: mix_all
out: {tmp_path / "run"}
model: {{path: {tiny_model}, lora: {{r: 4}}}}
data: {{shards: {tone_shards}}}
train: {{max_steps: 24, global_batch: 8, micro_batch: 4, eval_every: 2, checkpoint_every: 8}}
eval: {{val_per_dataset: 4, micro_batch: 4}}
sketch: {{k: 256, window_steps: 4}}
logging: {{experiment: {EXPERIMENT}}}
"""
    )
    return file


def kill_at(recipe: Path, step: int) -> None:
    """Start training, and end it as a power cut would once it has done `step`."""
    process = start_ranks(MODULE, "-c", recipe, ranks=1)
    log = recipe.with_name("run") / "arms" / "mix_all-s0" / "events-rank0.jsonl"
    before = len(read_event_lines(log)[0])
    deadline = time.monotonic() + 240
    while not any(event["event"] == "step" and event["step"] >= step for event in read_event_lines(log)[0][before:]):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0][-3000:]
        time.sleep(0.01)
    kill_all(process)


def logged(uri: str) -> dict[str, list[tuple[int, float]]]:
    """What the one seed run of a store has, after checks that all of it is whole and there once."""
    client = connect(uri, {})
    runs = all_runs(client, EXPERIMENT)
    assert {kind: len(found) for kind, found in runs.items()} == {"experiment": 1, "arm": 1, "seed": 1}
    assert {run.info.status for found in runs.values() for run in found} == {"FINISHED"}
    (run,) = runs["seed"]
    assert_no_doubles(client, run.info.run_id)
    assert len(run.inputs.dataset_inputs) == 4
    found = histories(client, run.info.run_id)
    return {key: [(step, value) for step, value, _ in points] for key, points in found.items()}


def written(out: Path) -> dict[str, list[tuple[int, float]]]:
    """What the log of the one run in `out` says."""
    (folder,) = run_folders(out)
    found: dict[str, list[tuple[int, float]]] = {}
    for point in folder.points():
        found.setdefault(point.key, []).append((point.step, point.value))
    return found


def untimed(found: dict[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float | None]]]:
    """Steps only for what is measured: a step trained again takes another time, and the store keeps what came first."""
    measured = ("train/throughput/", "train/memory/")
    return {
        key: [(step, None if key.startswith(measured) else value) for step, value in points]
        for key, points in found.items()
    }


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """A real tracking server with a store of its own, over HTTP."""
    port = free_port()
    words = ["server", "--port", port, "--workers", 1, "--backend-store-uri", f"sqlite:///{folder / 'served.db'}"]
    command = [str(BIN / "mlflow"), *map(str, words), "--artifacts-destination", str(folder / "served")]
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    requests.get(f"http://127.0.0.1:{port}/health", timeout=5).raise_for_status()
                    break
                except requests.RequestException:
                    assert process.poll() is None and time.monotonic() < deadline, (folder / "server.log").read_text()
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            kill_all(process)


def sync(out: Path, *more: object) -> str:
    done = run_command("gst", "report", out, "--sync", *more)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.long
def test_killed_three_times_lost_and_rebuilt(recipe: Path, tmp_path: Path) -> None:
    out, store = tmp_path / "run", f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}"
    for step in (5, 13, 19):  # before any checkpoint; after the first; after the second
        kill_at(recipe, step)
    done = run_ranks(MODULE, "-c", recipe, ranks=1)
    assert done.returncode == 0 and "resumed at step 16" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    expected = written(out)
    assert [step for step, _ in expected["val/macro/loss"]] == list(range(0, 25, 2))
    assert untimed(logged(store)) == untimed(expected)
    info = json.loads((out / "arms" / "mix_all-s0" / "run.json").read_text())
    assert "0 points sent to MLflow, nothing was missing" in sync(out)
    (run,) = all_runs(connect(store, {}), EXPERIMENT)["seed"]
    assert run.info.run_id == info["mlflow_run_id"]

    n_points = sum(len(points) for points in expected.values())
    with mlflow_server(tmp_path) as url:  # another store, and a sync that is killed in the middle of it
        killed = subprocess.Popen(
            [str(BIN / "gst"), "report", str(out), "--sync", "--tracking-uri", url], cwd=ROOT, env=environment()
        )
        while not search(url, "runs/search", {"experiment_ids": ["1"]}).get("runs"):
            assert killed.poll() is None
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        sent = re.search(r"(\d+) points sent", sync(out, "--tracking-uri", url))
        assert sent and int(sent[1]) <= n_points
        assert "0 points sent" in sync(out, "--tracking-uri", url)
        assert logged(url) == expected
        (parent,) = all_runs(connect(url, {}), EXPERIMENT)["experiment"]
        files = {each.path for each in connect(url, {}).list_artifacts(parent.info.run_id, "report")}
        assert {"report/report.html", "report/report.md", "report/tables", "report/figures"} <= files

    (out / "mlflow.db").unlink()
    shutil.rmtree(out / "mlartifacts")
    assert f"{n_points} points sent" in sync(out)
    # This process still knows the file that is gone.
    shutil.copy(out / "mlflow.db", tmp_path / "rebuilt.db")
    assert logged(f"sqlite:///{tmp_path / 'rebuilt.db'}") == expected


def search(url: str, method: str, query: dict[str, Any]) -> dict[str, Any]:
    """MLflow's REST API; nothing while the experiment is not there yet."""
    answer = requests.post(f"{url}/api/2.0/mlflow/{method}", json=query, timeout=30)
    return answer.json() if answer.ok else {}


@pytest.mark.long
def test_a_server_that_hangs_does_not_stop_a_training(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = run_ranks(MODULE, "-c", recipe, f"logging.tracking_uri={url}", ranks=1)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert (done.stdout + done.stderr).count("MLflow is not reachable") == 1
        refused = run_command("gst", "report", tmp_path / "run", "--sync")
        assert refused.returncode == 2 and url in refused.stderr and "Traceback" not in refused.stderr
    other = f"sqlite:///{tmp_path / 'other.db'}"
    sync(tmp_path / "run", "--tracking-uri", other)
    assert logged(other) == written(tmp_path / "run")


START = """
import sys
from pathlib import Path
from pipeline.cli.mlflow_sync import run_folders
from pipeline.runlog import MlflowLog
out, name = Path(sys.argv[1]), sys.argv[2]
(folder,) = [each for each in run_folders(out) if each.path.name == name]
print(name, flush=True)
sys.stdin.readline()
print(MlflowLog(folder).run_id)
"""


def test_processes_that_start_together_make_one_of_each(tmp_path: Path) -> None:
    out = tmp_path / EXPERIMENT / "mini"
    names = [f"x-s{seed}" for seed in range(4)]
    for seed in range(4):
        make_run(out, seed=seed, uri=None)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START, str(out), name],
            cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in names
    ]  # fmt: skip
    for process in processes:
        assert process.stdout and process.stdout.readline()
    for process in processes:  # the store does not exist yet
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0].split() for process in processes]
    assert all(ids and ids[-1] != "None" for ids in said)
    runs = all_runs(connect(f"sqlite:///{out / 'mlflow.db'}", {}), EXPERIMENT)
    assert {kind: len(found) for kind, found in runs.items()} == {"experiment": 1, "arm": 1, "seed": 4}

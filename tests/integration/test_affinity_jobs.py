"""Jobs and a real service that is away, killed, and back: nothing is lost, nothing is doubled, nothing is held up."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.affinity.http import HttpTransport
from pipeline.affinity.payload import dump_contribution
from pipeline.affinity.shipping import NOT_SHIPPED
from pipeline.affinity.store.store import open_store
from pipeline.affinity.versions import load_version
from pipeline.cli.probe import probe_recipe, probe_source
from pipeline.cli.session import Data
from pipeline.config import load_recipe
from pipeline.dist import free_port
from pipeline.runlog.events import read_event_lines
from tests.launching import ROOT, environment, run_command, run_ranks
from tests.serving import start_service
from tests.unit.affinity.publishing import DATASETS, make_publication

pytestmark = [pytest.mark.dist, pytest.mark.slow]
WINDOWS = 40
KILLS = 3


@pytest.fixture
def write_recipe(tone_shards: Path, tiny_model: Path, tmp_path: Path) -> Callable[[Path], Path]:
    """`write_recipe(out)` -> a recipe of 12 steps, three windows and a short probe; its run lands in `out`."""

    def write(out: Path) -> Path:
        file = tmp_path / f"recipe-{out.name}.yaml"
        file.write_text(
            f"""
arm: short
out: {out}
model: {{path: {tiny_model}, lora: {{r: 4}}}}
data: {{shards: {tone_shards}}}
train: {{max_steps: 12, global_batch: 8, micro_batch: 2, eval_every: 6, checkpoint_every: 12}}
eval: {{val_per_dataset: 4, micro_batch: 4}}
sketch: {{k: 256, window_steps: 4}}
probe: {{warmup_steps: 2, batches_per_dataset: 4, micro_batch: 2}}
affinity: {{groups: 2, bootstrap: 20}}
logging: {{mlflow: false}}
"""
        )
        return file

    return write


def pushes(folder: Path) -> int:
    """How many sketches the store has; read beside the service, which is allowed."""
    database = folder / "affinity" / "store.db"
    if not database.exists():
        return 0
    try:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        return int(connection.execute("SELECT COUNT(*) FROM pushes").fetchone()[0])
    except sqlite3.OperationalError:  # its tables are not there yet, or a killed service's journal is
        return 0


def test_two_jobs_push_at_once_while_their_service_is_killed(tmp_path: Path) -> None:
    served, port = tmp_path / "served", free_port()
    served.mkdir()
    words = [sys.executable, "-m", "tests.integration.affinity_job", f"http://127.0.0.1:{port}", tmp_path / "jobs"]
    jobs = [
        subprocess.Popen([str(word) for word in (*words, run, WINDOWS)], cwd=ROOT, env=environment())
        for run in ("one", "two")
    ]
    total = 2 * WINDOWS * len(DATASETS)
    for kill in range(1, KILLS + 1):
        with start_service(served, "--port", port) as service:
            deadline = time.monotonic() + 60
            while pushes(served) < total * kill // (KILLS + 2) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert total * kill // (KILLS + 2) <= pushes(served) < total
            service.process.kill()
    with start_service(served, "--port", port):
        for job in jobs:
            assert job.wait(timeout=120) == 0
    assert not list((tmp_path / "jobs" / "outbox").rglob("*.item"))
    with open_store(served / "affinity") as store:
        assert pushes(served) == total
        for run in ("one", "two"):
            lines = read_event_lines(tmp_path / "jobs" / run / "events-rank0.jsonl")[0]
            assert [line.event for line in store.events(run, 0, 1000)] == lines
            assert [line["step"] for line in lines] == list(range(WINDOWS))
            for step in range(WINDOWS):
                assert store.probe(run, step).is_complete
                (sent, got) = (make_publication(run, step, seed=step).stats, store._load(store.probe(run, step).probe))
                for name in DATASETS:
                    assert dump_contribution(got, name) == dump_contribution(sent, name)


@pytest.mark.long
def test_training_goes_on_without_its_service_and_sync_delivers(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    out, port = tmp_path / "exp", free_port()
    url = f"http://127.0.0.1:{port}"
    settings = [f"service.url={url}", "service.retries=0"]
    recipe = write_recipe(out)
    done = run_ranks("pipeline.cli.train", "-c", recipe, *settings, ranks=1)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "finished after 12 steps" in done.stdout and f"gst sync {out}" in done.stdout
    assert done.stderr.count("sketches and events wait until") == 1
    probed = run_ranks("pipeline.cli.probe", "-c", recipe, *settings, ranks=1)
    assert probed.returncode == 0 and "waiting in" in probed.stdout, probed.stdout + probed.stderr
    mark = json.loads((out / "probe" / "probe.json").read_text())
    assert mark["cost"]["samples"] > 0
    assert len(list((out / "outbox").glob("*.item"))) == 4  # windows of 4 steps, and the probe
    refused = run_command("gst", "sync", out)
    assert refused.returncode == 2 and "does not take what waits" in refused.stderr and "4 in" in refused.stderr

    served = tmp_path / "served"
    served.mkdir()
    with start_service(served, "--port", port):
        sent = run_command("gst", "sync", out)
        assert sent.returncode == 0 and "4 publications sent" in sent.stdout, sent.stdout + sent.stderr
        again = run_command("gst", "sync", out)
        assert again.returncode == 0 and "0 publications sent" in again.stdout and "0 events sent" in again.stdout
        runs = {status.run.name: status for status in HttpTransport(url).runs()}
        assert runs["exp-short-s0"].probes == (4, 8, 12)
        grouped = run_command("gst", "group", "-c", recipe, *settings)
        assert grouped.returncode == 0, grouped.stdout + grouped.stderr
    assert len(load_version(out / "affinity").groups) == 2
    with open_store(served / "affinity") as store:
        events = [line.event for line in store.events("exp-short-s0", 0, 1000)]
        assert store.probe(mark["run"], mark["step"]).is_complete
    lines = read_event_lines(out / "arms" / "short-s0" / "events-rank0.jsonl")[0]
    assert events == [line for line in lines if line["event"] not in NOT_SHIPPED]


def test_only_what_a_probe_sees_names_it(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    def source(*overrides: str) -> str:
        recipe = probe_recipe(load_recipe(write_recipe(tmp_path / "exp"), overrides))
        return probe_source(recipe, Data(recipe))

    unchanged = ("affinity.metric=cosine", "eval.micro_batch=2", "schedule.seed=3", "transfer.steps=1", "arm=other")
    assert source(*unchanged, "out=elsewhere", "logging.mlflow=true", "service.retries=1") == source()
    sources = {source(change) for change in ("probe.warmup_steps=3", "sketch.seed=1", "train.seed=1")}
    together = {source("service.contributors=[one, two]", f"service.contributor={name}") for name in ("one", "two")}
    assert len(together) == 1 and len(sources | together | {source()}) == 5


@pytest.mark.long
def test_contributors_share_one_probe(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    with start_service(served) as service:
        shared = [f"service.url={service.url}", "service.project=team", "service.contributors=[one, two]"]
        recipes = {name: write_recipe(tmp_path / name) for name in ("one", "two")}
        for name, recipe in recipes.items():
            words = ["-c", recipe, *shared, f"service.contributor={name}"]
            done = run_ranks("pipeline.cli.probe", *words, ranks=1)
            assert done.returncode == 0 and "sent to the affinity store" in done.stdout, done.stdout + done.stderr
            grouped = run_command("gst", "group", *words)
            if name == "one":
                assert grouped.returncode == 2 and "two has to send animal, colour, height, number" in grouped.stderr
            else:
                assert grouped.returncode == 0, grouped.stdout + grouped.stderr
    version = load_version(tmp_path / "two" / "affinity")
    assert set(version.parameters["batches"].values()) == {4}  # of both together, none taken twice

"""Two machines in network namespaces, a real ssh, a real hostfile: a training loses the second machine, twice.

Once its cable is pulled: nobody is told, and only silence shows it. Once it loses power. Each time the first machine
ends in seconds with a message, and the same command goes on; in the end nothing differs from a run on one machine.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from pipeline.lifeline import KEEPALIVE_S, PATIENCE_S, PROBES
from pipeline.runlog.events import read_event_lines
from tests.dist import conftest as dist_fixtures
from tests.dist.test_resume import final_numbers, run_dir, wait_for_step
from tests.launching import run_ranks
from tests.two_nodes import TwoNodes, why_not

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.long, pytest.mark.two_nodes]
MODULE = "pipeline.cli.train"
METRIC = "val/macro/loss"
write_recipe = dist_fixtures.write_recipe
# Until silence counts as loss, and the launchers have taken down what is left; a collective would wait ten minutes.
NOTICED_S = KEEPALIVE_S * (PROBES + 1) + PATIENCE_S + 60


@pytest.fixture(scope="module", autouse=True)
def _needs_namespaces() -> None:
    missing = why_not()
    if missing:
        pytest.skip(missing)


def logged_evaluations(out: Path) -> list[int]:
    """Steps of the evaluations in the one MLflow run that has any, which must be the one that `run.json` names."""
    client = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiments = [each.experiment_id for each in client.search_experiments()]
    (found,) = [each for each in client.search_runs(experiments) if METRIC in each.data.metrics]
    assert found.info.run_id == json.loads((run_dir(out) / "run.json").read_text())["mlflow_run_id"]
    return [metric.step for metric in client.get_metric_history(found.info.run_id, METRIC)]


def end_of(process: subprocess.Popen[str], timeout_s: float) -> str:
    started = time.monotonic()
    said = process.communicate(timeout=timeout_s)[0]
    assert process.returncode != 0, said[-3000:]
    assert "rank 1 is gone" in said and "goes on from the newest checkpoint" in said, said[-3000:]
    assert time.monotonic() - started < timeout_s
    return said


def test_a_run_that_loses_a_machine_twice_ends_as_if_it_had_not(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = run_ranks(MODULE, "-c", write_recipe(whole))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    recipe = write_recipe(broken)
    with TwoNodes(tmp_path / "nodes") as nodes:
        command = [*nodes.launcher(), "--module", MODULE, "-c", recipe]
        process = nodes.start(command)
        wait_for_step(process, broken, 5)
        nodes.cable(plugged=False)
        end_of(process, NOTICED_S)
        nodes.kill("node2")
        nodes.cable(plugged=True)
        process = nodes.start(command)
        wait_for_step(process, broken, 10)
        nodes.kill("node2")
        end_of(process, NOTICED_S)
        process = nodes.start(command)
        said = process.communicate(timeout=240)[0]
        assert process.returncode == 0, said[-3000:]
    assert final_numbers(broken) == final_numbers(whole)
    assert logged_evaluations(broken) == logged_evaluations(whole)  # one run, and no step twice
    resumes = [e for e in read_event_lines(run_dir(broken) / "events-rank0.jsonl")[0] if e["event"] == "resume"]
    assert len(resumes) == 2 and all("ranks_before" not in event for event in resumes)

"""Kills and resumes of real two-rank runs: the outcome is that of a run nobody disturbed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.runlog.events import read_event_lines
from tests.launching import kill_all, run_command, run_ranks, start_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow]
MODULE = "pipeline.cli.train"
MEASURED = ("t", "wall_s", "throughput", "memory", "gpu")  # of an event: never the same twice


def run_dir(out: Path) -> Path:
    return out / "arms" / "short-s0"


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        events = read_event_lines(run_dir(out) / "events-rank0.jsonl")[0]
        if any(event["event"] == "step" and event["step"] >= step for event in events):
            return
        if process.poll() is not None:
            pytest.fail(f"the run ended before step {step}: {process.communicate()[0][-3000:]}")
        time.sleep(0.02)
    pytest.fail(f"step {step} never came")


def final_numbers(out: Path) -> dict[str, Any]:
    """What a run did, step by step, as its log tells it once superseded events are dropped."""
    last: dict[tuple[str, int], dict[str, Any]] = {}
    for event in read_event_lines(run_dir(out) / "events-rank0.jsonl")[0]:
        if event["event"] in ("step", "eval", "stage", "decision", "sketch"):
            kept = {key: value for key, value in event.items() if key not in MEASURED}
            last[event["event"], event["step"]] = kept
    result = json.loads((run_dir(out) / "result.json").read_text())
    return {"events": last, "test": result["datasets"], "samples": result["samples"], "tokens": result["tokens"]}


def test_killed_twice_and_resumed_equals_uninterrupted(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = run_ranks(MODULE, "-c", write_recipe(whole))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    recipe = write_recipe(broken)
    for step in (5, 10):  # checkpoints are at 3, 6, 9: steps are lost and must be repeated
        process = start_ranks(MODULE, "-c", recipe)
        wait_for_step(process, broken, step)
        kill_all(process)
        assert not (run_dir(broken) / "result.json").exists()
    again = run_ranks(MODULE, "-c", recipe)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "resumed at step" in again.stdout
    expected, got = final_numbers(whole), final_numbers(broken)
    assert got["samples"] == expected["samples"] == 12 * 8
    assert sorted(got["events"]) == sorted(expected["events"])
    for key, event in expected["events"].items():
        assert got["events"][key] == event, key
    assert got["test"] == expected["test"]
    stages = [key for key in got["events"] if key[0] == "stage"]
    assert len(stages) == 2  # the switch happened, and happened once


@pytest.mark.long
def test_a_finished_run_is_left_alone_and_a_changed_one_refused(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    recipe = write_recipe(out, max_steps=3)
    assert run_ranks(MODULE, "-c", recipe).returncode == 0
    before = (run_dir(out) / "result.json").stat().st_mtime_ns
    again = run_ranks(MODULE, "-c", recipe)
    assert again.returncode == 0 and "already finished" in again.stdout
    assert (run_dir(out) / "result.json").stat().st_mtime_ns == before
    changed = run_ranks(MODULE, "-c", recipe, "train.optimizer.lr=1.0e-4")
    assert changed.returncode != 0
    assert "checkpoint of another run" in changed.stderr and "recipe" in changed.stderr
    fewer = run_ranks(MODULE, "-c", recipe, ranks=1)
    assert fewer.returncode == 0  # finished is finished, on any number of ranks


def test_a_run_goes_back_to_a_step_or_to_the_beginning(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "back"
    words = ("gst", "train", "-c", write_recipe(out, max_steps=6), "train.eval_every=6")
    assert run_command(*words).returncode == 0
    checkpoints, first = run_dir(out) / "checkpoints", final_numbers(out)
    run_id = json.loads((run_dir(out) / "run.json").read_text())["run_id"]
    absent = run_command(*words, "--resume", "5")
    assert absent.returncode == 2
    assert "no complete checkpoint of step 5" in absent.stderr and "step-000003, step-000006" in absent.stderr
    assert (run_dir(out) / "result.json").exists()
    back = run_command(*words, "--resume", "3")
    assert back.returncode == 0 and "resumed at step 3 from step-000003" in back.stdout, back.stderr[-3000:]
    assert final_numbers(out) == first
    (checkpoints / "step-000003" / "complete.json").unlink()  # only step 6 is left to go on from
    anew = run_command(*words, "--resume", "never", "train.checkpoint_every=6")
    assert anew.returncode == 0 and "resumed" not in anew.stdout, anew.stderr[-3000:]
    assert [folder.name for folder in checkpoints.iterdir()] == ["step-000006"]
    assert json.loads((run_dir(out) / "run.json").read_text())["run_id"] != run_id


def test_a_world_size_that_does_not_divide_is_refused_before_training(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    done = run_ranks(MODULE, "-c", write_recipe(tmp_path / "three"), ranks=3)
    assert done.returncode != 0
    assert "4 micro-batches per step on 3 ranks" in done.stderr and "1, 2, 4" in done.stderr
    assert "Traceback" not in done.stderr


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""

"""SIGTERM and SIGINT: the first saves and leaves with exit code 75, on all ranks; a second one leaves at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import Stopped
from pipeline.runlog.events import read_event_lines
from pipeline.stopping import SAME_REQUEST_S
from tests.dist.test_resume import cmdline, final_numbers, run_dir, wait_for_step
from tests.launching import BIN, descendants, kill_all, launch_command, run_ranks, start_command, start_ranks

pytestmark = pytest.mark.dist
WORKER = "tests.dist.signals_worker"
TRAIN = "pipeline.cli.train"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start(*words)` -> that command in a session of its own, gone at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: object, ready: int = 0) -> subprocess.Popen[str]:
        process = start_command(*words)
        started.append(process)
        wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == ready or process.poll() is not None)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            kill_all(process)


def wait_for(condition: Callable[[], bool], timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def one_process(folder: Path, how: str) -> list[object]:
    return [sys.executable, "-m", WORKER, folder, how]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_work_ends_in_good_order(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    process = start(*one_process(tmp_path, "noting"), ready=1)
    os.kill(process.pid, number)
    os.kill(process.pid, signal.SIGTERM)  # as a launcher does after Ctrl-C: the same request
    said = process.communicate(timeout=60)[0]
    assert process.returncode == Stopped.exit_code == 75
    assert said.startswith(f"stopped by {number.name}") and "step-000007" in said and "Traceback" not in said
    assert (tmp_path / "saved-0").exists()


def test_a_signal_outside_the_loop_leaves_at_once_with_the_same_code(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start(*one_process(tmp_path, "starting"), ready=1)
    os.kill(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 75 and said.startswith("stopped by SIGTERM")
    assert not (tmp_path / "saved-0").exists()


def test_a_second_signal_leaves_at_once_whatever_the_main_thread_does(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start(*one_process(tmp_path, "deaf"), ready=1)
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(SAME_REQUEST_S + 0.5)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 128 + signal.SIGINT and "SIGINT again" in said


@pytest.mark.slow
def test_what_the_launcher_alone_does(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """Why `gst train --ranks` stands before it: `deepspeed` dies of SIGTERM and leaves all below it running."""
    process = start(*launch_command(WORKER, tmp_path, "noting"), ready=2)
    below = descendants(process.pid)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=30) == -signal.SIGTERM
    launcher, *ranks = sorted(below)
    assert all(Path(f"/proc/{pid}").exists() for pid in below)
    os.kill(launcher, signal.SIGTERM)  # this one passes it on
    wait_for(lambda: len(list(tmp_path.glob("saved-*"))) == 2)
    wait_for(lambda: not any(cmdline(pid) for pid in (launcher, *ranks)))


@pytest.mark.slow
def test_a_training_is_stopped_twice_and_ends_as_if_it_had_not_been(
    start: Callable[..., subprocess.Popen[str]], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = run_ranks(TRAIN, "-c", write_recipe(whole))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    recipe = write_recipe(broken)
    # First the whole command, as a cluster does; then one of its ranks alone, which tells the other.
    process = start(BIN / "gst", "train", "--ranks", 2, "-c", recipe)
    wait_for_step(process, broken, 4)
    os.kill(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=180)[0]
    assert process.returncode == 75 and "stopped by SIGTERM" in said, said[-3000:]
    process = start_ranks(TRAIN, "-c", recipe)
    wait_for_step(process, broken, 8)
    (second,) = [pid for pid in descendants(process.pid) if b"--local_rank=1" in cmdline(pid)]
    os.kill(second, signal.SIGINT)
    said = process.communicate(timeout=180)[0]
    assert process.returncode == 75 and "stopped by a signal to another rank" in said, said[-3000:]
    events = read_event_lines(run_dir(broken) / "events-rank0.jsonl")[0]
    stops = [event["step"] for event in events if event["event"] == "stopped"]
    assert len(stops) == 2
    again = run_ranks(TRAIN, "-c", recipe)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    resumed = [event["step"] for event in read_event_lines(run_dir(broken) / "events-rank0.jsonl")[0]
               if event["event"] == "resume"]  # fmt: skip
    assert resumed == stops  # not a step was lost
    assert final_numbers(broken) == final_numbers(whole)

"""A rank gets SIGKILL: the other one ends in seconds with a message that names it, and the job with an error."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dist.test_resume import cmdline, run_dir, wait_for_step
from tests.launching import descendants, kill_all, start_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow]
ENDS_WITHIN_S = 30  # collectives would wait for ten minutes


def kill_rank(process: subprocess.Popen[str], rank: int) -> None:
    (pid,) = [pid for pid in descendants(process.pid) if f"--local_rank={rank}".encode() in cmdline(pid)]
    os.kill(pid, signal.SIGKILL)


def end_of(process: subprocess.Popen[str]) -> str:
    """What a job said that is to end by itself, and soon."""
    try:
        said = process.communicate(timeout=ENDS_WITHIN_S)[0]
    except subprocess.TimeoutExpired:
        kill_all(process)
        raise
    assert process.returncode != 0
    return said


@pytest.mark.parametrize(("victim", "how"), [(1, "collective"), (1, "nothing"), (0, "nothing")])
def test_the_other_rank_ends_whatever_it_waits_for(tmp_path: Path, victim: int, how: str) -> None:
    process = start_ranks("tests.dist.crash_worker", tmp_path, how)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    kill_rank(process, victim)
    said = end_of(process)
    assert f"error: rank {victim} is gone" in said and "Traceback" not in said, said[-3000:]


def test_a_training_that_loses_a_rank_ends_and_leaves_whole_checkpoints(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "dying"
    process = start_ranks("pipeline.cli.train", "-c", write_recipe(out, max_steps=2000))
    wait_for_step(process, out, 7)
    kill_rank(process, 1)
    said = end_of(process)
    assert "error: rank 1 is gone" in said and "goes on from the newest checkpoint" in said, said[-3000:]
    checkpoints = sorted((run_dir(out) / "checkpoints").glob("step-*"))
    assert checkpoints and all((folder / "complete.json").exists() for folder in checkpoints)

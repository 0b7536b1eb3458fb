"""Ranks as plain processes: whoever vanishes is noticed by all, whoever takes leave is not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from typing import Any

import pytest

from pipeline import lifeline
from pipeline.cli import errors
from pipeline.errors import LostRankError, Stopped, StoppedTogether

RANKS = 3
WAIT_S = 60
# Not forked: a forked child of a process with threads may wait for ever for a lock that one of them held.
SPAWN = multiprocessing.get_context("spawn")


class PipeComm:
    """Two collectives for plain processes."""

    world_size = RANKS

    def __init__(self) -> None:
        self.rank = -1
        self._barrier = SPAWN.Barrier(RANKS)
        self._number = SPAWN.Value("i", 0)

    def broadcast_object(self, value: Any) -> Any:
        if self.rank == 0:
            self._number.value = value
        self._barrier.wait(WAIT_S)
        return self._number.value

    def gather_objects(self, value: Any) -> list[Any]:
        self._barrier.wait(WAIT_S)
        return [value]


def rank_process(rank: int, comm: PipeComm, joined: Any, then: Callable[[lifeline.Lifeline, int], None]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    comm.rank = rank
    mine = lifeline.Lifeline()
    mine.join(comm)  # type: ignore[arg-type]
    joined.wait(WAIT_S)
    then(mine, rank)
    os._exit(0)


def start(then: Callable[[lifeline.Lifeline, int], None]) -> list[SpawnProcess]:
    comm, joined = PipeComm(), SPAWN.Barrier(RANKS + 1)
    ranks = [SPAWN.Process(target=rank_process, args=(rank, comm, joined, then), daemon=True) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    joined.wait(WAIT_S)
    return ranks


def stay(mine: lifeline.Lifeline, rank: int) -> None:
    time.sleep(2 * WAIT_S)


def leave_early(mine: lifeline.Lifeline, rank: int) -> None:
    if rank != 1:
        time.sleep(lifeline.PATIENCE_S + 1)
    mine.farewell()


def stop_early(mine: lifeline.Lifeline, rank: int) -> None:
    def command() -> None:
        if rank != 1:
            time.sleep(lifeline.PATIENCE_S + 1)
        raise StoppedTogether("stopped")

    os.environ["WORLD_SIZE"] = str(RANKS)
    errors.LIFELINE = mine
    errors.run_guarded(command)


def fail(mine: lifeline.Lifeline, rank: int) -> None:
    if rank == 1:
        os._exit(9)
    assert mine.lost_rank(wait_s=10) == 1
    mine.leave_alone()
    time.sleep(lifeline.PATIENCE_S + 1)
    os._exit(20 + rank)


@pytest.mark.parametrize("victim", range(RANKS))
def test_a_killed_rank_ends_all_others_and_one_of_them_says_so(victim: int, capfd: pytest.CaptureFixture[str]) -> None:
    ranks = start(stay)
    os.kill(ranks[victim].pid or 0, signal.SIGKILL)
    for rank, process in enumerate(ranks):
        process.join(WAIT_S)
        assert process.exitcode == (-signal.SIGKILL if rank == victim else LostRankError.exit_code), rank
    said = capfd.readouterr().err
    assert said.count(f"error: rank {victim} is gone") == 1
    assert f"noticed by: rank {1 if victim == 0 else 0}" in said


def test_a_rank_that_takes_leave_alarms_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    ranks = start(leave_early)
    for process in ranks:
        process.join(WAIT_S)
    assert [process.exitcode for process in ranks] == [0, 0, 0]
    assert not capfd.readouterr().err


def test_a_rank_that_stops_with_the_others_alarms_nobody_when_it_is_the_first_to_end(
    capfd: pytest.CaptureFixture[str],
) -> None:
    ranks = start(stop_early)
    for process in ranks:
        process.join(WAIT_S)
    assert [process.exitcode for process in ranks] == [Stopped.exit_code] * RANKS
    assert "is gone" not in capfd.readouterr().err


def test_a_rank_with_an_error_of_its_own_reports_that_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    ranks = start(fail)
    for process in ranks:
        process.join(WAIT_S)
    assert [process.exitcode for process in ranks] == [20, 9, 22]
    assert not capfd.readouterr().err

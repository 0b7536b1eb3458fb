"""One worker of a grid: takes the next task that is ready and nobody has, runs it, records how it ended."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.grid.estimate import Forecast
from pipeline.grid.ledger import Ledger
from pipeline.grid.tasks import Task

POLL_S = 5.0  # between two looks at what other workers have finished
STOP_S = 20.0  # how long a stopped task may take to end
TAIL_LINES = 12
_PR_SET_PDEATHSIG = 1


class Work(Protocol):
    """What tasks are made of; `pipeline.cli.tables` knows the commands."""

    code: str

    def key(self, task: Task) -> str:
        """Digest of all that the task's result depends on; asked when all that it needs is done."""
        ...

    def command(self, task: Task, *, again: bool) -> list[str]:
        """The command line of a task that starts ranks; `again`: an earlier result is of something else."""
        ...

    def compute(self, task: Task) -> str:
        """Do a task without ranks, in this process; returns what is worth recording."""
        ...


@dataclass
class Outcome:
    """How a worker's time ended: tasks done by anybody, failed, and those that wait for a failed one."""

    done: list[str]
    failed: list[str]
    blocked: list[str]


class Runner:
    """One worker.

    Args:
        say: prints a line.
        redo: tasks that other code has done are done again.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        ledger: Ledger,
        work: Work,
        forecast: Forecast,
        *,
        say: Callable[[str], None],
        redo: bool = False,
    ) -> None:
        self.tasks = list(tasks)
        self.ledger, self.work, self.forecast = ledger, work, forecast
        self.say, self.redo = say, redo
        self._done: set[str] = set()
        self._failed: set[str] = set()
        self._others = ""
        self._began = math.inf

    def run(self) -> Outcome:
        """Work until every task is done, has failed, or waits for one that has failed.

        A failed task does not stop the others, and is tried again by the next call, not by this one and not by workers
        beside it.
        """
        self._began = time.time()
        self._look()
        while True:
            ready = [task for task in self._open() if set(task.needs) <= self._done]
            if not ready:
                break
            if not any(self._try(task) for task in ready):
                self._wait_for_others(ready)
            self._look()
        blocked = [task.name for task in self._open() if task.name not in self._failed]
        return Outcome(sorted(self._done), sorted(self._failed), blocked)

    def _open(self) -> list[Task]:
        return [task for task in self.tasks if task.name not in self._done | self._failed]

    def _look(self) -> None:
        """Read what any worker has finished; a task counts once all that it needs counts."""
        for task in self._open():
            if set(task.needs) <= self._done:
                self._count(task)

    def _count(self, task: Task) -> bool:
        """Whether the task has ended: done, or failed since this worker began."""
        record = self.ledger.record(task.name)
        if record is not None and record.returncode and record.finished >= self._began:
            self._failed.add(task.name)
            return True
        if self._is_done(task):
            self._done.add(task.name)
            return True
        return False

    def _is_done(self, task: Task) -> bool:
        record = self.ledger.record(task.name)
        if record is None or record.returncode or record.key != self.work.key(task):
            return False
        if self.redo and record.code != self.work.code:
            return False
        self.forecast.saw(task, record.seconds)
        return True

    def _try(self, task: Task) -> bool:
        """Run a task unless another worker has it; True when it ended, well or not."""
        with self.ledger.claim(task.name) as handle:
            if handle is None:
                return False
            if self._count(task):  # another worker was faster than our last look
                return True
            self._say_start(task)
            key, before = self.work.key(task), self.ledger.record(task.name)
            again = before is not None and (before.key != key or (self.redo and before.code != self.work.code))
            started = time.monotonic()
            try:
                returncode, value = 0, ""
                if task.is_run:
                    returncode = run_command(self.work.command(task, again=again), self.ledger.log(task.name), handle)
                else:
                    value = self.work.compute(task)
            except Exception as error:  # one task's mistake is that task's; the others go on
                returncode = 1
                self.ledger.log(task.name).write_text(f"{type(error).__name__}: {error}\n")
            seconds = time.monotonic() - started
            self.ledger.write(task.name, key, self.work.code, seconds, returncode, value)
        if returncode:
            self._failed.add(task.name)
            log = self.ledger.log(task.name)
            self.say(f"{task.name} failed ({returncode}), {log}:\n{tail_of(log)}")
        else:
            self._done.add(task.name)
            self.forecast.saw(task, seconds)
        return True

    def _wait_for_others(self, ready: Sequence[Task]) -> None:
        """All that could be done now is in other workers' hands: look again in a moment."""
        shown = ", ".join(task.name for task in ready[:3])
        if self._others != shown:
            self._others = shown
            self.say(f"waiting for other workers: {shown}{' ...' if len(ready) > 3 else ''}")
        time.sleep(POLL_S)

    def _say_start(self, task: Task) -> None:
        if not task.is_run:
            return
        runs = [each for each in self.tasks if each.is_run]
        done = sum(each.name in self._done for each in runs)
        left = self.forecast.total(self._open())
        self.say(f"[{done + 1}/{len(runs)}] {task.name}: about {words(self.forecast.seconds(task))}; "
                 f"all that is left: {words(left)}")  # fmt: skip


def run_command(command: Sequence[str], log: Path, lock: int) -> int:
    """Run a command with its output in a file; returns its exit code.

    It dies with this process, whatever kills it, and holds the task's lock until it has. On SIGTERM and Ctrl-C it is
    stopped first.
    """
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
            preexec_fn=_die_with_parent,
        )
        before = signal.signal(signal.SIGTERM, _raise_interrupt)
        try:
            return process.wait()
        except BaseException:
            _stop(process)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)


def tail_of(log: Path) -> str:
    """The last lines of a task's output, marked as such."""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(f"  | {line}" for line in lines[-TAIL_LINES:])


def words(seconds: float) -> str:
    """`40 s`, `12 min`, `9 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _raise_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a command and all that it started: it leads a session of its own."""
    for wish in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, wish)
            process.wait(STOP_S)
            return
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue

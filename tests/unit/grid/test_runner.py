"""Workers of a grid: order, failures, resuming, kills, two at once. The tasks are real processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest

from pipeline.grid.estimate import Forecast
from pipeline.grid.ledger import Ledger
from pipeline.grid.runner import Outcome, Runner, words
from pipeline.grid.tasks import Task


class Shell:
    """Every task appends its name to a file; what `lines` says comes before."""

    def __init__(self, folder: Path, lines: dict[str, str] | None = None, *, code: str = "c", key: str = "k") -> None:
        self.folder, self.lines, self.code, self._key = folder, lines or {}, code, key
        self.again: list[str] = []

    def key(self, task: Task) -> str:
        return self._key

    def command(self, task: Task, *, again: bool) -> list[str]:
        if again:
            self.again.append(task.name)
        script = f"{self.lines.get(task.name, '')}\necho {task.name} >> {self.folder / 'order.txt'}"
        return ["bash", "-e", "-c", script]

    def compute(self, task: Task) -> str:
        with open(self.folder / "order.txt", "a") as file:
            file.write(f"{task.name}\n")
        return f"found by {task.name}"


TASKS = [
    Task("s/probe", "probe", "s"),
    Task("s/group", "group", "s", needs=("s/probe",)),
    Task("s/a", "train", "s", needs=("s/group",)),
    Task("s/b", "train", "s"),
    Task("s/end", "agreement", "s", needs=("s/a", "s/b")),
]


def work(folder: Path, shell: Shell, tasks: list[Task] = TASKS, *, redo: bool = False) -> tuple[Outcome, list[str]]:
    said: list[str] = []
    runner = Runner(tasks, Ledger(folder), shell, Forecast({}), say=said.append, redo=redo)
    return runner.run(), said


def order(folder: Path) -> list[str]:
    file = folder / "order.txt"
    return file.read_text().split() if file.exists() else []


def test_every_task_runs_once_after_what_it_needs(tmp_path: Path) -> None:
    outcome, said = work(tmp_path, Shell(tmp_path))
    assert sorted(order(tmp_path)) == sorted(task.name for task in TASKS) == outcome.done
    done = order(tmp_path)
    for task in TASKS:
        assert all(done.index(need) < done.index(task.name) for need in task.needs)
    assert (outcome.failed, outcome.blocked) == ([], [])
    assert said[0].startswith("[1/3] s/probe")
    record = Ledger(tmp_path).record("s/group")
    assert record is not None and record.value == "found by s/group" and record.returncode == 0


def test_a_second_call_runs_nothing(tmp_path: Path) -> None:
    work(tmp_path, Shell(tmp_path))
    before = order(tmp_path)
    outcome, said = work(tmp_path, Shell(tmp_path))
    assert order(tmp_path) == before and len(outcome.done) == len(TASKS) and said == []


def test_a_failed_task_stops_only_what_needs_it_and_is_tried_again_by_the_next_call(tmp_path: Path) -> None:
    outcome, said = work(tmp_path, Shell(tmp_path, {"s/a": "echo the reason; exit 3"}))
    assert outcome.failed == ["s/a"] and outcome.blocked == ["s/end"] and "s/b" in outcome.done
    assert any("s/a failed (3)" in line and "the reason" in line for line in said)
    outcome, _ = work(tmp_path, Shell(tmp_path))
    assert outcome.failed == [] and len(outcome.done) == len(TASKS)
    assert order(tmp_path).count("s/b") == 1


def test_a_computation_that_raises_is_a_failure_of_that_task(tmp_path: Path) -> None:
    class Broken(Shell):
        def compute(self, task: Task) -> str:
            raise ValueError("no groups")

    outcome, said = work(tmp_path, Broken(tmp_path))
    assert outcome.failed == ["s/group"] and "s/b" in outcome.done and any("no groups" in line for line in said)


def test_what_depends_on_other_things_now_is_run_again(tmp_path: Path) -> None:
    work(tmp_path, Shell(tmp_path, key="old"))
    shell = Shell(tmp_path, key="new")
    work(tmp_path, shell)
    assert shell.again == ["s/probe", "s/b", "s/a"] or sorted(shell.again) == ["s/a", "s/b", "s/probe"]
    assert order(tmp_path).count("s/a") == 2


def test_other_code_counts_unless_redo_is_asked_for(tmp_path: Path) -> None:
    work(tmp_path, Shell(tmp_path, code="one"))
    work(tmp_path, Shell(tmp_path, code="two"))
    assert order(tmp_path).count("s/a") == 1
    work(tmp_path, Shell(tmp_path, code="two"), redo=True)
    assert order(tmp_path).count("s/a") == 2


def _worker(folder: Path, number: int, counts: multiprocessing.Queue[int]) -> None:
    lines = {f"t/{n}": "sleep 0.05" for n in range(12)}
    shell = Shell(folder, {**lines, "t/bad": f"echo tried >> {folder}/tried.txt; sleep 0.2; exit 3"})
    many = [Task(f"t/{n}", "train", "t") for n in range(12)]
    bad = Task("t/bad", "train", "t")
    import pipeline.grid.runner as room

    room.POLL_S = 0.05
    outcome, said = work(folder, shell, [bad, *many, Task("t/end", "train", "t", needs=tuple(t.name for t in many))])
    assert len(outcome.done) == 13 and outcome.failed == ["t/bad"], outcome
    counts.put(sum(line.startswith("[") for line in said))


def test_workers_share_the_tasks_and_each_is_done_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    counts: multiprocessing.Queue[int] = context.Queue()
    workers = [context.Process(target=_worker, args=(tmp_path, n, counts)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sorted(order(tmp_path)) == sorted([*(f"t/{n}" for n in range(12)), "t/end"])
    assert order(tmp_path)[-1] == "t/end"
    assert sum(counts.get(timeout=5) for _ in workers) == 14
    assert (tmp_path / "tried.txt").read_text().split() == ["tried"], "a failure is one for all workers of that time"


SCRIPT = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {root!r})
    from tests.unit.grid.test_runner import Shell, work
    from pipeline.grid.tasks import Task
    folder = Path({folder!r})
    lines = {{"t/long": f"echo $$ > {{folder}}/pid; sleep 60 & echo $! > {{folder}}/grandchild; wait"}}
    work(folder, Shell(folder, lines), [Task("t/long", "train", "t")])
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_worker_takes_its_task_with_it_and_the_task_is_free_again(tmp_path: Path, how: int) -> None:
    root = str(Path(__file__).resolve().parents[3])
    script = textwrap.dedent(SCRIPT.format(root=root, folder=str(tmp_path)))
    # What runs in a shell's background ignores SIGINT, and its children would, too.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen([sys.executable, "-c", script], cwd=root, preexec_fn=heard)
    grandchild = tmp_path / "grandchild"
    wait_for(lambda: grandchild.exists() and grandchild.read_text().strip() != "")
    pid = int((tmp_path / "pid").read_text())
    ledger = Ledger(tmp_path)
    assert ledger.is_claimed("t/long")
    process.send_signal(how)
    process.wait(30)
    wait_for(lambda: not is_alive(pid))
    wait_for(lambda: not ledger.is_claimed("t/long") or how == signal.SIGKILL)
    if how == signal.SIGKILL:  # the grandchild is nobody's now; it holds no lock
        os.kill(int(grandchild.read_text()), signal.SIGKILL)
    assert ledger.record("t/long") is None
    outcome, _ = work(tmp_path, Shell(tmp_path), [Task("t/long", "train", "t")])
    assert outcome.done == ["t/long"]


def wait_for(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_durations_in_words() -> None:
    assert [words(s) for s in (40, 89.6, 120, 5000, 33300)] == ["40 s", "90 s", "2 min", "83 min", "9 h 15 min"]

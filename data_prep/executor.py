"""Run shard tasks: here in this process, or in a pool of processes on this machine.

Every task is idempotent and independent of all others, so an executor only has to run each of them once, in any order.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from data_prep.plan import ShardTask
from data_prep.write import write_shard
from pipeline.data.manifest import ShardSide
from pipeline.errors import ConfigError, NotBuiltYet, ShardError, nearest

EXECUTORS = ("local", "array", "ray")
_TASKS_PER_WORKER = 64


def run(tasks: Sequence[ShardTask], jobs: int, *, executor: str = "local") -> Iterator[tuple[ShardTask, ShardSide]]:
    """Write every shard; yields each task with its side file as it ends, in no particular order.

    Raises:
        ShardError: a worker process died, or the output cannot be written.
        NotBuiltYet: the executor is planned, not there.
    """
    if executor not in EXECUTORS:
        raise ConfigError(
            "no such executor", got=executor, expected=" ".join(EXECUTORS), hint=nearest(executor, EXECUTORS)
        )
    if executor != "local":
        raise NotBuiltYet(f"executor {executor!r}", hint="use the local one")
    if jobs < 1:
        raise ConfigError("the number of jobs must be positive", where={"option": "jobs"}, got=jobs)
    if jobs == 1 or len(tasks) < 2:
        return ((task, write_shard(task)) for task in tasks)
    return _run_pool(tasks, jobs)


def _run_pool(tasks: Sequence[ShardTask], jobs: int) -> Iterator[tuple[ShardTask, ShardSide]]:
    """Fresh processes after every `_TASKS_PER_WORKER` shards bound what a leak in a decoder can cost.

    A new pool a round does it, since `max_tasks_per_child` loses workers and then hangs (CPython 3.11, seen here).
    `spawn`, because forking a process with threads can deadlock.
    """
    n_round = jobs * _TASKS_PER_WORKER
    for start in range(0, len(tasks), n_round):
        chunk = tasks[start : start + n_round]
        pool = ProcessPoolExecutor(
            min(jobs, len(chunk)), mp_context=multiprocessing.get_context("spawn"), initializer=_die_with_parent
        )
        futures = {pool.submit(write_shard, task): task for task in chunk}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BrokenProcessPool:
            raise ShardError(
                "a worker process died while writing shards",
                where={"unfinished": ", ".join(task.name for task in list(futures.values())[:jobs])},
                hint="often memory: run again with fewer --jobs; whole shards are kept",
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _die_with_parent() -> None:
    """A pool's workers outlive a killed parent and wait for ever; end them, so that a restart is alone."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

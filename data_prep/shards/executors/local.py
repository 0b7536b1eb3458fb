"""Shard tasks in this process, or in a pool of processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from data_prep.planning.task import ShardDone, ShardTask
from data_prep.shards.write import write_shard
from pipeline.errors import ConfigError, ShardError

_TASKS_PER_WORKER = 64


@dataclass(frozen=True)
class LocalExecutor:
    """`jobs` processes; with one, this process does the work itself."""

    jobs: int

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ConfigError("the number of jobs must be positive", where={"option": "jobs"}, got=self.jobs)

    def share(self, tasks: Sequence[ShardTask]) -> Sequence[ShardTask]:
        return tasks

    def run(self, tasks: Sequence[ShardTask]) -> Iterator[tuple[ShardTask, ShardDone]]:
        if self.jobs == 1 or len(tasks) < 2:
            return ((task, write_shard(task)) for task in tasks)
        return self._run_pool(tasks)

    def _run_pool(self, tasks: Sequence[ShardTask]) -> Iterator[tuple[ShardTask, ShardDone]]:
        """Fresh processes after every `_TASKS_PER_WORKER` shards bound what a leak in a decoder can cost.

        A new pool a round does it, since `max_tasks_per_child` loses workers and then hangs (CPython 3.11, seen here).
        `spawn`, because forking a process with threads can deadlock.
        """
        n_round = self.jobs * _TASKS_PER_WORKER
        for start in range(0, len(tasks), n_round):
            chunk = tasks[start : start + n_round]
            pool = ProcessPoolExecutor(
                min(self.jobs, len(chunk)),
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_die_with_parent,
            )
            futures = {pool.submit(write_shard, task): task for task in chunk}
            try:
                for future in as_completed(futures):
                    yield futures.pop(future), future.result()
            except BrokenProcessPool:
                raise ShardError(
                    "a worker process died while writing shards",
                    where={"unfinished": ", ".join(task.name for task in list(futures.values())[: self.jobs])},
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

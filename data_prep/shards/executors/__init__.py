"""Ways to run shard tasks: processes on this machine, one task of a SLURM array, or a Ray cluster.

Every task is idempotent and independent of all others, so an executor only has to run each of them once, in any order;
engines may be mixed and killed at will. All of them call `write_shard`, and the shards are the same to the byte.
Processes on several machines need the corpora and the output under the same paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from data_prep.planning.task import ShardDone, ShardTask
from data_prep.shards.executors.array import ArrayExecutor
from data_prep.shards.executors.local import LocalExecutor
from data_prep.shards.executors.ray import RayExecutor
from pipeline.errors import ConfigError, did_you_mean

EXECUTORS = ("local", "array", "ray")


class Executor(Protocol):
    """Runs shard tasks."""

    def share(self, tasks: Sequence[ShardTask]) -> Sequence[ShardTask]:
        """Those of all planned shards that this process is responsible for."""
        ...

    def run(self, tasks: Sequence[ShardTask]) -> Iterator[tuple[ShardTask, ShardDone]]:
        """Write the shards; yields each as it ends, in no particular order.

        Raises:
            ShardError: a worker died, or the output cannot be written.
        """
        ...


def make_executor(
    name: str,
    jobs: int,
    task_index: int | None = None,
    num_tasks: int | None = None,
    ray_address: str | None = None,
) -> Executor:
    """The executor of that name; ConfigError for an unknown one, or for choices that do not fit it."""
    if name not in EXECUTORS:
        raise ConfigError(
            "no such executor",
            where={"option": "executor"},
            got=name,
            expected=" ".join(EXECUTORS),
            hint=did_you_mean(name, EXECUTORS),
        )
    if name == "array":
        return ArrayExecutor.from_choices(task_index, num_tasks, LocalExecutor(jobs))
    if (task_index, num_tasks) != (None, None):
        raise ConfigError(
            "--task-index and --num-tasks belong to --executor array", where={"option": "executor"}, got=name
        )
    return RayExecutor(ray_address) if name == "ray" else LocalExecutor(jobs)

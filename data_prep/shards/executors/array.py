"""One of many independent processes, each with its share of the shards: a SLURM array, or a loop over machines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_prep.planning.task import ShardDone, ShardTask
from data_prep.shards.executors.local import LocalExecutor
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class ArrayExecutor:
    """Share `index` of `count`, written by `local`. A dataset is finished by the process that writes its last shard."""

    index: int
    count: int
    local: LocalExecutor

    @classmethod
    def from_choices(cls, index: int | None, count: int | None, local: LocalExecutor) -> ArrayExecutor:
        """Numbers that were not given are SLURM's: its array may begin anywhere, ours begins with 0.

        Raises:
            ConfigError: they are not known, or do not fit each other.
        """
        first = _slurm("SLURM_ARRAY_TASK_MIN") or 0
        slurm_index = _slurm("SLURM_ARRAY_TASK_ID")
        if index is None and slurm_index is not None:
            index = slurm_index - first
        count = _slurm("SLURM_ARRAY_TASK_COUNT") if count is None else count
        if index is None or count is None:
            raise ConfigError(
                "the array executor needs its share",
                expected="--task-index I --num-tasks N, or a SLURM array job",
                hint="sbatch --array=0-15 --wrap 'gst-data prepare --executor array ...'",
            )
        if not 0 <= index < count:
            raise ConfigError(
                "the index of an array task is out of range",
                where={"option": "task-index"},
                got=index,
                expected=f"0 to {count - 1}",
                hint="an array with gaps or a step needs --task-index and --num-tasks",
            )
        return cls(index, count, local)

    def share(self, tasks: Sequence[ShardTask]) -> list[ShardTask]:
        """Every `count`-th shard, largest first, so that shares are about equal; the same after a restart."""
        return sorted(tasks, key=lambda task: (-task.n_clips, task.name))[self.index :: self.count]

    def run(self, tasks: Sequence[ShardTask]) -> Iterator[tuple[ShardTask, ShardDone]]:
        return self.local.run(tasks)


def _slurm(name: str) -> int | None:
    value = os.environ.get(name)
    return int(value) if value and value.isdigit() else None

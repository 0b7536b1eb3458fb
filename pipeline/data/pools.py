"""What a source draws from under one name: examples in an endless order that is a pure function of (seed, position)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.data.batches import require_examples
from pipeline.data.index import ShardIndex
from pipeline.data.order import bucketed_permutation, example_at
from pipeline.errors import ConfigError, did_you_mean

_EPOCHS_KEPT = 4  # orders of one pool: two for reads that lie about an epoch's edge, and some to spare


class Pool(Protocol):
    """Examples of one or more datasets."""

    @property
    def datasets(self) -> tuple[str, ...]: ...

    @property
    def digest(self) -> str | None:
        """Identifies what is in it, for given datasets; None where it is all of one."""
        ...

    def __len__(self) -> int: ...

    def at(self, seed: int, position: int) -> tuple[str, int]:
        """Dataset and number of the example at `position`."""
        ...

    def consumed(self, seed: int, position: int) -> dict[str, int]:
        """Dataset -> its examples before `position`."""
        ...


@dataclass(frozen=True)
class DatasetPool:
    """One dataset, or some of its examples, in epochs of an order of their own.

    Attributes:
        name: of the order: pools of other names have other orders.
        n: examples in it.
        numbers: which [n]; None: all of the dataset.
    """

    name: str
    dataset: str
    n: int
    numbers: NDArray[np.int64] | None = None

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.dataset,)

    @cached_property
    def digest(self) -> str | None:
        if self.numbers is None:
            return None
        return hashlib.sha256(self.dataset.encode() + b"/" + self.numbers.astype("<i8").tobytes()).hexdigest()

    def __len__(self) -> int:
        return self.n

    def at(self, seed: int, position: int) -> tuple[str, int]:
        return self.dataset, self.number(example_at(seed, self.name, self.n, position))

    def number(self, place: int) -> int:
        """Which of the dataset's examples is the pool's `place`-th."""
        return place if self.numbers is None else int(self.numbers[place])

    def consumed(self, seed: int, position: int) -> dict[str, int]:
        return {self.dataset: position}


class BucketedPool:
    """The same examples in an order whose micro-batches hold clips of like duration, so that less is padded.

    Args:
        durations_s: [n] of the pool's examples.
        micro_batch, window: see `bucketed_permutation`.
    """

    def __init__(self, pool: DatasetPool, durations_s: NDArray[np.float32], micro_batch: int, window: int) -> None:
        assert len(durations_s) == len(pool)
        self._pool = pool
        self._durations_s = durations_s
        self._micro_batch, self._window = micro_batch, window
        self._order = lru_cache(maxsize=_EPOCHS_KEPT)(self._make_order)

    @property
    def datasets(self) -> tuple[str, ...]:
        return self._pool.datasets

    @property
    def digest(self) -> str | None:
        return self._pool.digest

    def __len__(self) -> int:
        return len(self._pool)

    def at(self, seed: int, position: int) -> tuple[str, int]:
        epoch, offset = divmod(position, len(self._pool))
        return self._pool.dataset, self._pool.number(int(self._order(seed, epoch)[offset]))

    def consumed(self, seed: int, position: int) -> dict[str, int]:
        return self._pool.consumed(seed, position)

    def _make_order(self, seed: int, epoch: int) -> NDArray[np.uint32]:
        return bucketed_permutation(seed, self._pool.name, epoch, self._durations_s, self._micro_batch, self._window)


def bucketed(pool: Pool, index: ShardIndex, split: str, micro_batch: int, window: int) -> BucketedPool:
    """`pool` in buckets of durations; ConfigError when it has no datasets' own order (it is drawn by cluster)."""
    if not isinstance(pool, DatasetPool):
        raise ConfigError(
            "examples drawn by cluster cannot be bucketed by duration",
            where={"key": "data.bucket"},
            got=window,
            hint="leave data.bucket out, or choose a regime that draws by dataset",
        )
    durations_s = index.durations_s(pool.dataset, split)
    return BucketedPool(pool, durations_s if pool.numbers is None else durations_s[pool.numbers], micro_batch, window)


def dataset_pools(index: ShardIndex, datasets: Iterable[str], split: str) -> dict[str, Pool]:
    """One pool for each whole dataset; ShardError where there is no example."""
    return {name: DatasetPool(name, name, require_examples(index, name, split)) for name in datasets}


def task_sizes(index: ShardIndex, split: str = "train") -> dict[str, dict[str, int]]:
    """Dataset -> task -> examples; those with a damaged annotation are not counted."""
    counts = {name: Counter(task for task in index.tasks(name, split) if task is not None) for name in index.datasets}
    return {name: dict(sorted(tasks.items())) for name, tasks in counts.items()}


def examples_by_level(
    index: ShardIndex, levels: Sequence[Sequence[str]], split: str = "train"
) -> dict[tuple[str, int], NDArray[np.int64]]:
    """(dataset, level) -> numbers of the dataset's examples whose task is of that level, where there are any.

    Examples with a damaged annotation are in no level.

    Raises:
        ConfigError: a task that is in no level.
    """
    level_of = {task: level for level, tasks in enumerate(levels) for task in tasks}
    found: dict[tuple[str, int], NDArray[np.int64]] = {}
    for name in index.datasets:
        tasks = index.tasks(name, split)
        for task in {task for task in tasks if task is not None}:
            if task not in level_of:
                raise ConfigError(
                    "a task of the data belongs to no level",
                    where={"dataset": name},
                    got=task,
                    expected="; ".join(", ".join(level) for level in levels),
                    hint=did_you_mean(task, level_of, "add it to the level it belongs to"),
                )
        level = np.array([-1 if task is None else level_of[task] for task in tasks], dtype=np.int64)
        found |= {(name, each): np.flatnonzero(level == each) for each in np.unique(level).tolist() if each >= 0}
    return found

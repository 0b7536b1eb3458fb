"""Batch arithmetic: the global batch is micro-batch x accumulation x ranks, and what fits when it is not."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.training import TrainConfig
from pipeline.errors import WorldSizeError


@dataclass(frozen=True)
class BatchPlan:
    """How one optimizer step's examples are dealt to ranks: `global_batch = micro_batch * accumulation * ranks`."""

    global_batch: int
    micro_batch: int
    accumulation: int
    ranks: int

    def __str__(self) -> str:
        return (
            f"{self.global_batch} = {self.micro_batch} (micro-batch) x {self.accumulation} (accumulation) x "
            f"{self.ranks} (ranks)"
        )


def plan_batches(train: TrainConfig, world_size: int) -> BatchPlan:
    """The plan of a recipe on `world_size` ranks.

    Raises:
        WorldSizeError: the global batch does not deal evenly to the ranks; says what would.
    """
    slots = train.global_batch // train.micro_batch
    if world_size < 1 or slots % world_size:
        raise WorldSizeError(
            "the world size does not divide the batch",
            where={"key": "train.global_batch / train.micro_batch"},
            got=f"{slots} micro-batches per step on {world_size} ranks",
            expected=f"a world size out of {', '.join(str(n) for n in fitting_world_sizes(train))}",
            hint=_what_would_fit(train, world_size),
        )
    return BatchPlan(train.global_batch, train.micro_batch, slots // world_size, world_size)


def fitting_world_sizes(train: TrainConfig) -> list[int]:
    """Numbers of ranks that deal the batch evenly."""
    slots = train.global_batch // train.micro_batch
    return [n for n in range(1, slots + 1) if slots % n == 0]


def _what_would_fit(train: TrainConfig, world_size: int) -> str:
    """The nearest batches that `world_size` ranks deal evenly: another micro-batch, or another global one."""
    if world_size < 1:
        return "give a number of ranks of at least 1"
    changes = []
    if train.global_batch % world_size == 0:
        each = train.global_batch // world_size
        micro = max(n for n in range(1, min(each, train.micro_batch) + 1) if each % n == 0)
        changes.append(f"train.micro_batch={micro}")
    step = train.micro_batch * world_size
    nearest = {step * max(1, train.global_batch // step), step * -(-train.global_batch // step)}
    changes.append(f"train.global_batch={' or '.join(str(n) for n in sorted(nearest))}")
    return f"on {world_size} ranks {', or '.join(changes)} would fit; or change the number of ranks"

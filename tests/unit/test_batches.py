"""Batch arithmetic: what is dealt, and what would fit when it is not."""

from __future__ import annotations

import pytest

from pipeline.config.batches import fitting_world_sizes, plan_batches
from pipeline.config.training import TrainConfig
from pipeline.errors import WorldSizeError


def batch(global_batch: int, micro_batch: int) -> TrainConfig:
    return TrainConfig(max_steps=1, global_batch=global_batch, micro_batch=micro_batch)


def test_the_global_batch_is_micro_batch_times_accumulation_times_ranks() -> None:
    plan = plan_batches(batch(128, 8), 4)
    assert plan.accumulation == 4 and plan.micro_batch * plan.accumulation * plan.ranks == 128
    assert str(plan) == "128 = 8 (micro-batch) x 4 (accumulation) x 4 (ranks)"
    assert fitting_world_sizes(batch(24, 4)) == [1, 2, 3, 6]


@pytest.mark.parametrize(
    ("sizes", "ranks", "changes"),
    [
        ((128, 8), 64, ["train.micro_batch=2", "train.global_batch=512"]),
        ((16, 4), 3, ["train.global_batch=12 or 24"]),
        ((24, 6), 3, ["train.micro_batch=4", "train.global_batch=18 or 36"]),
        ((16, 4), 0, []),
    ],
)
def test_what_is_proposed_fits(sizes: tuple[int, int], ranks: int, changes: list[str]) -> None:
    with pytest.raises(WorldSizeError) as caught:
        plan_batches(batch(*sizes), ranks)
    assert caught.value.hint is not None
    for change in changes:
        assert change in caught.value.hint
        key, _, values = change.partition("=")
        for value in values.split(" or "):
            changed = batch(*sizes).model_copy(update={key.removeprefix("train."): int(value)})
            assert plan_batches(changed, ranks).ranks == ranks

"""Micro-batches of several datasets: no recorder takes their gradient for a dataset's."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.affinity.conflict import conflict_summary
from pipeline.affinity.estimator import GradientStats
from pipeline.dist import SingleProcess
from pipeline.sketch.hooks import GradientSketcher
from pipeline.sketch.partition import PartitionSketcher
from pipeline.sketch.recorder import PartitionRecorder, SketchRecorder
from pipeline.sketch.spec import SketchSpec
from pipeline.types import MIXED, GradientPartition, MicroBatch

SPEC = SketchSpec(k=64, seed=5)
ALONE = MicroBatch("a", ("1", "2"), {}, 0.0)
TWO = MicroBatch(MIXED, ("1", "2"), {}, 0.0, datasets=("a", "b"))


def summarise(export: dict[str, Any], step: int) -> dict[str, Any]:
    return {**conflict_summary(GradientStats(**export)), "count": export["count"].tolist()}


def hook_recorder(model: torch.nn.Module) -> SketchRecorder:
    sketcher = GradientSketcher(model.named_parameters(), SPEC)
    return SketchRecorder(sketcher, ["a", "b"], SingleProcess(), window_steps=1, summarise=summarise)


def backward(model: torch.nn.Module, recorder: Any, batch: MicroBatch) -> None:
    with recorder.micro_batch(batch, 3, 1.0):
        model(torch.ones(2, 4)).sum().backward()


def test_hooks_skip_them_and_count_them() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    recorder, plain = hook_recorder(model), hook_recorder(model)
    for batch in (ALONE, TWO, ALONE, TWO, TWO):
        backward(model, recorder, batch)
    for _ in range(2):
        backward(model, plain, ALONE)
    resumed = hook_recorder(model)
    resumed.load_state_dict(recorder.state_dict())
    expected = plain.end_of_step(1)
    assert expected is not None and expected["count"] == [2, 0] and "mixed" not in expected
    assert recorder.end_of_step(1) == resumed.end_of_step(1) == {**expected, "mixed": 3}
    backward(model, recorder, TWO)
    numbers = recorder.end_of_step(2)
    assert numbers is not None and numbers["micro_batches"] == 0 and numbers["mixed"] == 1
    backward(model, recorder, ALONE)
    assert "mixed" not in (recorder.end_of_step(3) or {})


def test_a_step_with_one_of_them_is_a_mixed_step() -> None:
    model = torch.nn.Linear(4, 3)

    def partitions() -> list[GradientPartition]:
        named = model.named_parameters()
        return [GradientPartition(n, p.grad.flatten(), 0, p.numel(), p.numel()) for n, p in named if p.grad is not None]

    sketcher = PartitionSketcher(model.named_parameters(), SPEC)
    recorder = PartitionRecorder(
        sketcher, ["a", "b"], SingleProcess(), partitions=partitions, window_steps=2, summarise=summarise
    )
    for batch in (TWO, ALONE):
        backward(model, recorder, batch)
        recorder.reduced()
    numbers = recorder.end_of_step(2)
    assert numbers is not None and numbers["steps"] == {"sketched": 1, "mixed": 1, "without_second_moment": 0}
    assert numbers["count"] == [1, 0]

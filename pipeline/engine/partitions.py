"""The reduced gradient as ZeRO-3 leaves it: every rank's own slice of every parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.distributed as torch_dist

from pipeline.engine.second_moments import adam_denominator, adam_steps
from pipeline.errors import SketchError
from pipeline.models.load import trainable_parameters
from pipeline.types import GradientPartition


def gradient_partitions(engine: Any, *, adam: bool = False) -> Iterator[GradientPartition] | None:
    """This rank's slices of the mean gradient of the step, unscaled and unclipped, in float32; no collective.

    Valid between the last backward of an optimizer step and `engine.step()`. A parameter that no micro-batch of the
    step used has the gradient that DeepSpeed will apply to it: that of the step before.

    Args:
        adam: also give Adam's denominators (`adam_denominator`) with second moments as the last step left them. None is
            returned instead of slices before the first step, when there are none.

    Raises:
        SketchError: not ZeRO-3, which alone partitions both in this way.
    """
    if engine.zero_optimization_stage() != 3:
        raise SketchError(
            "only ZeRO-3 leaves gradients in slices",
            got=f"ZeRO stage {engine.zero_optimization_stage()}",
            hint="use zero_optimization.stage 3, or sketch.mode=hook",
        )
    if adam and adam_steps(engine) < 1:
        return None
    return _slices(engine, adam)


def loss_scale(engine: Any) -> float:
    """What the engine multiplies the loss by before backward: 1 except under fp16."""
    return float(getattr(engine.optimizer, "cur_scale", None) or 1.0)


def _slices(engine: Any, adam: bool) -> Iterator[GradientPartition]:
    from deepspeed.utils import safe_get_local_grad, safe_get_local_optimizer_state

    scale = loss_scale(engine)
    parameter: Any  # ZeRO-3 adds attributes that torch's type does not have
    for name, parameter in trainable_parameters(engine.module).items():
        denominator = None
        if adam:
            denominator = adam_denominator(engine, safe_get_local_optimizer_state(parameter, "exp_avg_sq"))
        yield GradientPartition(
            name=name,
            gradient=safe_get_local_grad(parameter) / scale,
            offset=torch_dist.get_rank(parameter.ds_process_group) * parameter.partition_numel(),
            numel=parameter.ds_numel,
            denominator=denominator,
        )

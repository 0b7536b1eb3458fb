"""Gradients without a step: what each dataset pulls at, measured at one common checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch

from pipeline.config.training import SpeedConfig
from pipeline.engine.setup import device_of
from pipeline.models.load import trainable_parameters
from pipeline.models.teacher import TeacherForcing
from pipeline.types import MicroBatch


def probe_gradients(
    engine: Any,
    batches: Iterable[MicroBatch],
    record: Callable[[MicroBatch, int], AbstractContextManager[None]],
    speed: SpeedConfig | None = None,
) -> int:
    """Run forward and backward of every micro-batch, reducing nothing and changing no parameter.

    Must start at an accumulation boundary. Every rank brings the same number of micro-batches. Gradients are freed as
    soon as they exist, so no rank ever holds a full set. `record(batch, tokens)` wraps each backward. `speed` is the
    recipe's.

    Returns:
        Backward passes on this rank.
    """
    backwards, teacher = 0, TeacherForcing(engine, device_of(engine), speed)
    handles = [
        parameter.register_post_accumulate_grad_hook(_free_gradient)
        for parameter in trainable_parameters(engine.module).values()
    ]
    try:
        with engine.coalesce_grad_reduction():
            for batch in batches:
                loss = teacher.loss(batch)
                with record(batch, loss.tokens):
                    engine.backward(loss.mean, scale_wrt_gas=False)
                backwards += 1
    finally:
        for handle in handles:
            handle.remove()
    # DeepSpeed counts the flush at the end of the block as a reduction; without this the next step would add to it.
    engine.optimizer.zero_grad()
    return backwards


def _free_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None

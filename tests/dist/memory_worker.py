"""Runs on every rank, see `test_memory.py`: trains two steps, then counts the bytes of DeepSpeed's tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from pipeline.cli.errors import run_guarded
from pipeline.config.deepspeed import render_deepspeed
from pipeline.config.memory import communication_terms, model_state_terms
from pipeline.config.zero import ZeroSettings
from pipeline.models.shape import find_shape, shape_of
from pipeline.runlog.events import read_event_lines
from tests.bench.mini_worker import hand_back, new_trainer, open_session, worker_parser

STEPS = 2  # as in the test


def work() -> None:
    """One rank's part; rank 0 hands back what its tensors hold, and what the formula says."""
    session = open_session(worker_parser().parse_args())
    new_trainer(session).warm_up(STEPS)
    zero = ZeroSettings.of(render_deepspeed(session.recipe, session.comm.world_size))
    shape = shape_of(session.recipe.model, find_shape(session.recipe.model.path))
    ours = [
        *model_state_terms(shape, session.recipe, zero, session.comm.world_size),
        *communication_terms(shape, session.recipe, zero, session.comm.world_size),
    ]
    expected = {term.name: term.bytes for term in ours if term.phase == "always"}
    engine = session.engine
    held = _stage3(engine) if zero.stage == 3 else _stage2(engine)
    losses = [event["loss"] for event in read_event_lines(session.events.path)[0] if event["event"] == "step"]
    names = {name: (p.numel(), p.requires_grad) for name, p in _whole(engine.module)}
    hand_back(
        session,
        {
            "held": {name: _bytes(tensors) for name, tensors in held.items()},
            "in_all": _bytes([tensor for tensors in held.values() for tensor in tensors]),
            "expected": {name: number for name, number in expected.items() if number},
            "parameters": [sum(n for n, _ in names.values()), sum(n for n, learns in names.values() if learns)],
            "shape": [shape.total, shape.trainable],
            "losses": losses,
            "optimizer_device": held["fp32 weights"][0].device.type,
        },
    )


def _whole(module: torch.nn.Module) -> Iterable[tuple[str, Any]]:
    """Parameters with an honest `numel`, also when they are partitioned."""
    for name, parameter in module.named_parameters():
        yield (
            name,
            torch.empty(getattr(parameter, "ds_shape", parameter.shape), device="meta").requires_grad_(
                parameter.requires_grad
            ),
        )


def _stage3(engine: Any) -> dict[str, list[torch.Tensor]]:
    zero, parameters = engine.optimizer, list(engine.module.parameters())
    grads = [flat.grad for flat in zero.fp32_partitioned_groups_flat if zero.offload_optimizer]
    return {
        "trainable weights": [p.ds_tensor for p in parameters if p.requires_grad],
        "frozen weights": [p.ds_tensor for p in parameters if not p.requires_grad],
        "weights that stay gathered": [p.data for p in parameters if p.ds_persist],
        "fp32 weights": list(zero.fp32_partitioned_groups_flat),
        "state of adamw": _state(zero.optimizer),
        "gradients, reduced": [zero.grad_partitions_flat_buffer],
        "gradients of the step": [grad for grad in grads if grad is not None],
        "bucket of gradients": [bucket.buffer for bucket in zero.ipg_buckets.values()],
    }


def _stage2(engine: Any) -> dict[str, list[torch.Tensor]]:
    zero, parameters = engine.optimizer, list(engine.module.parameters())
    return {
        "trainable weights": list(zero.bit16_groups_flat),
        "frozen weights": [p.data for p in parameters if not p.requires_grad],
        "fp32 weights": list(zero.single_partition_of_fp32_groups),
        "state of adamw": _state(zero.optimizer),
    }


def _state(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Of their storages, each once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


if __name__ == "__main__":
    run_guarded(work)

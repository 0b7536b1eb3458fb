"""Process group and DeepSpeed engine. This room is the only importer of deepspeed."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from typing import Any

import torch

from pipeline.config import Recipe
from pipeline.config.deepspeed import render_deepspeed
from pipeline.dist import Comm, TorchComm, free_port, launched_rank
from pipeline.engine.optimizers import attach_optimizer, build_optimizer
from pipeline.engine.speed import checkpoint_activations
from pipeline.errors import ConfigError, TrainingError
from pipeline.lifeline import LIFELINE

COLLECTIVE_TIMEOUT = timedelta(minutes=10)


def init_distributed() -> Comm:
    """Join the launcher's process group, or make a world of one when nothing launched this process.

    Raises:
        TrainingError: the group cannot be formed (port taken, a rank that never came).
    """
    deepspeed = _import_deepspeed()
    if "RANK" not in os.environ:
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())
        )
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "gloo":
        # The optional shared-memory collectives are compiled at start-up: two minutes, and a failure without a
        # compiler. There is no public switch in 0.19.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    try:
        deepspeed.init_distributed(dist_backend=backend, timeout=COLLECTIVE_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"cannot form the process group: {str(error).splitlines()[0]}",
            where={
                "rank": os.environ["RANK"],
                "address": f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}",
            },
            hint="check that every rank is up and give the launcher another --master_port",
        ) from None
    comm = TorchComm()
    LIFELINE.join(comm)
    return comm


def build_engine(recipe: Recipe, model: torch.nn.Module, world_size: int) -> Any:
    """A DeepSpeedEngine that trains the model's trainable parameters with the recipe's optimizer.

    Weight decay is applied to matrices only.

    Raises:
        ModelError: nothing to train.
        ConfigError / WorldSizeError: the DeepSpeed JSON, the optimizer's options or the batch do not fit.
    """
    deepspeed = _import_deepspeed()
    if recipe.model.dtype == "fp16" and not deepspeed.get_accelerator().is_fp16_supported():
        raise ConfigError(
            "DeepSpeed cannot train in fp16 on this device",
            where={"key": "model.dtype"},
            got=deepspeed.get_accelerator().device_name(),
            expected="bf16 or fp32 here; fp16 on a GPU",
        )
    config = render_deepspeed(recipe, world_size)
    optimizer = build_optimizer(recipe.train.optimizer, model)
    if recipe.train.speed.activation_checkpointing:
        checkpoint_activations(model)
    model.train()  # `from_pretrained` leaves it in eval mode, where a resumed run would have no dropout
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    attach_optimizer(recipe.train.optimizer, engine)
    return engine


def device_of(engine: Any) -> torch.device:
    return torch.device(engine.device)


def set_learning_rate(engine: Any, lr: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def shutdown(comm: Comm) -> None:
    """Wait until every rank is done; call it on success only, a failed rank must not wait for the others.

    Launched ranks keep their process group and leave with `os._exit` (`pipeline.cli.errors`): taking the group down
    while a peer still does the same now and then aborts the process ("terminate called without an active exception").
    """
    comm.barrier()
    LIFELINE.farewell()
    if comm.world_size == 1:
        torch.distributed.destroy_process_group()


def _import_deepspeed() -> Any:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    level = logging.WARNING if launched_rank() == 0 else logging.ERROR
    logging.getLogger("DeepSpeed").setLevel(level)
    return deepspeed

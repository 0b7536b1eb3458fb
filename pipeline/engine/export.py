"""Write the trained weights in the formats of transformers and peft, whatever they were sharded over."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from pipeline.atomic import folder_atomic
from pipeline.config.schema import ModelConfig
from pipeline.config.training import TrainConfig
from pipeline.dist import Comm
from pipeline.engine.averaging import average_of
from pipeline.models.card import CardFacts, Which
from pipeline.models.export_files import saved_buffers, write_adapters, write_companions, write_whole_model
from pipeline.models.exported import Origin
from pipeline.models.load import trainable_parameters


def export_engine(
    engine: Any, config: ModelConfig, origin: Origin | None, folder: Path, comm: Comm, facts: CardFacts
) -> None:
    """Save what the engine's model has learnt; every rank calls it, rank 0 writes, one parameter is gathered at a time.

    The folder appears whole or not at all. Rank 0 holds the trained weights, or one file of the whole model.

    Args:
        config: the recipe's section.
        origin: what the weights are written beside, in peft's form; None: the whole model is written.
    """
    is_first = comm.rank == 0
    trained: dict[str, torch.Tensor] = {}
    if origin is not None:
        for name, parameter in trainable_parameters(engine.module).items():
            with gathered([parameter]):
                if is_first:
                    trained[name] = parameter.detach().cpu().clone()
    with folder_atomic(folder) if is_first else nullcontext(folder) as draft:
        if origin is None:
            write_whole_model(draft, engine.module, gathered=gathered, writes=is_first)
        elif is_first:
            write_adapters(draft, origin, trained, saved_buffers(engine.module), facts)
        if is_first:
            write_companions(draft, config, facts)
    comm.barrier()


def which_judged(train: TrainConfig, step: int, best_step: int | None) -> Which:
    """The weights that a run ends with, at `step`; `best_step`: of its best evaluation, where it keeps that."""
    kind = average_of(train)
    if train.keep_best and train.keep_best.use_for_test and best_step:
        return Which(best_step, kind, train.keep_best.metric)
    return Which(step, kind)


def gathered(parameters: list[torch.Tensor]) -> AbstractContextManager[Any]:
    """Parameters that ZeRO-3 has partitioned, whole for as long as the context lasts; every rank enters it."""
    import deepspeed

    partitioned = [each for each in parameters if hasattr(each, "ds_id")]
    if not partitioned:
        return nullcontext()
    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(partitioned, modifier_rank=None)
    return context

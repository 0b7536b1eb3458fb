"""Write the trained weights in the formats of transformers and peft, whatever they were sharded over."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pipeline.dist import Comm
from pipeline.errors import NotBuiltYet
from pipeline.models.load import trainable_parameters


def save_pretrained(engine: Any, processor: Any, folder: Path, comm: Comm) -> None:
    """Save model and processor as a `from_pretrained` folder; every rank calls it, rank 0 writes.

    The folder appears whole or not at all.

    Raises:
        NotBuiltYet: a LoRA model.
    """
    module = engine.module
    if hasattr(module, "peft_config"):
        raise NotBuiltYet("export of a LoRA adapter", hint="train.save_model works with model.mode=full")
    import deepspeed

    # Gathering all parameters at once needs one full model on rank 0; sharded export is for models that do not fit.
    with deepspeed.zero.GatheredParameters(list(module.parameters()), modifier_rank=None):
        if comm.rank == 0:
            draft = folder.with_name(f".{folder.name}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}
            module.save_pretrained(draft, state_dict=state)
            processor.save_pretrained(draft)
            shutil.rmtree(folder, ignore_errors=True)
            draft.replace(folder)
    comm.barrier()


def trainable_count(engine: Any) -> tuple[int, int]:
    """(trainable, all) parameters, also when they are partitioned."""

    def size(parameter: Any) -> int:
        return int(getattr(parameter, "ds_numel", parameter.numel()))

    learning = trainable_parameters(engine.module).values()
    return sum(size(p) for p in learning), sum(size(p) for p in engine.module.parameters())

"""A trained model for use: whole, or adapters on their base, from a folder and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.config.schema import ModelConfig
from pipeline.models.exported import read_export
from pipeline.models.load import DTYPES, load_base_model, load_config, load_model, load_processor


def load_exported(folder: str | Path) -> tuple[torch.nn.Module, Any]:
    """The model and processor of an exported folder, or of any `from_pretrained` folder or hub name.

    The model is in evaluation mode and computes in the type it was saved in; no weight of it learns. Its logits are
    those of the trained model, to the bit where adapters were not merged and training computed in fp32.

    Raises:
        ModelError: nothing loadable there, or a base model that is not there or not the one the adapters belong to.
    """
    path = str(folder)
    export = read_export(path)
    if export is None:
        model = load_base_model(ModelConfig(path=path, dtype=_dtype_of(path)))
    else:
        model = load_model(used_config(path, export.model))
        dtype = DTYPES[export.model.dtype]
        for parameter in model.parameters():  # peft makes adapters of a 16-bit model in fp32
            parameter.data = parameter.data.to(dtype)
    model.config.use_cache = True
    return model.eval().requires_grad_(False), load_processor(path)


def used_config(path: str, trained: ModelConfig) -> ModelConfig:
    """The section of a recipe that loads the export at `path`, which `trained` trained, as it is and on any machine."""
    here = {"path": path, "adapters": "continue", "dropout": None, "attention": "auto", "pad_audio": "window"}
    return trained.model_copy(update=here)


def _dtype_of(path: str) -> Any:
    dtype = getattr(load_config(path), "dtype", None)
    return next((name for name, each in DTYPES.items() if each == dtype), "fp32")

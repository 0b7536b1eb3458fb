"""Load a model and its processor from a `from_pretrained` folder or a hub name."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from pipeline.config.schema import ModelConfig
from pipeline.errors import ModelError
from pipeline.models.attention import with_attention
from pipeline.models.exported import read_export
from pipeline.models.family import Family, family_of, family_of_type, resolve
from pipeline.models.parts import merge_own_adapters, set_parts
from pipeline.models.short_audio import accept_short_windows, require_short_windows

# One progress bar per rank for every load says nothing that the run log does not.
transformers_logging.disable_progress_bar()

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def family_at(path: str) -> Family:
    """The family of the model in a `from_pretrained` folder or under a hub name.

    Raises:
        ModelError: nothing loadable there, or a model whose parts cannot be found.
    """
    return _known_at(path) or family_of(load_config(path))


def load_config(path: str) -> Any:
    """The config of what `load_model` loads.

    Raises:
        ModelError: nothing loadable there.
    """
    family = _known_at(path)
    try:
        if family is not None and family.model_class is not None:
            return resolve(family.model_class).config_class.from_pretrained(path)
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise _unloadable(path, error) from None


def load_processor(path: str) -> Any:
    """The processor of a `from_pretrained` folder or hub name.

    Raises:
        ModelError: nothing loadable there, or a package that its family's processor needs is not there.
    """
    family = _known_at(path)
    try:
        if family is not None and family.processor is not None:
            return resolve(family.processor)(path)
        return AutoProcessor.from_pretrained(path)
    except ImportError as error:
        needed = family.processor_package if family is not None else None
        raise ModelError(
            "the processor of this model needs a package that is not installed",
            where={"path": path},
            got=_first_line(error),
            hint=f"pip install {needed}" if needed else "pip install what it asks for",
        ) from None
    except (OSError, ValueError) as error:
        raise _unloadable(path, error) from None


def load_model(config: ModelConfig) -> torch.nn.Module:
    """The model of a recipe, in which the parts learn that the recipe names.

    Raises:
        ModelError: nothing loadable at `path`; a part that cannot learn as told; audio that cannot be padded as told.
    """
    family = family_at(config.path)
    if config.pad_audio == "longest":
        require_short_windows(family, family.name)
    own = {} if config.dropout is None else {"config": _with_dropout(config.path, config.dropout)}
    model = _from_pretrained(config, family, own)
    if config.pad_audio == "longest":
        accept_short_windows(model, family)
    return _with_adapters(model, family, config)


def load_base_model(config: ModelConfig) -> Any:
    """The base model of a recipe: no adapters, no dropout of the recipe's own, its whole audio window.

    Raises:
        ModelError: nothing loadable at `path`.
    """
    return _from_pretrained(config, family_at(config.path))


def _with_adapters(model: torch.nn.Module, family: Family, config: ModelConfig) -> torch.nn.Module:
    """`set_parts`, going on from the adapters of an export if the recipe begins from one."""
    export = read_export(config.path)
    if export is not None and config.adapters == "merge":
        model = export.merged_into(model)
    model = set_parts(model, family, config)
    if export is not None and config.adapters == "continue":
        export.put_adapters(model)
    return model


def _from_pretrained(config: ModelConfig, family: Family, own: dict[str, Any] | None = None) -> Any:
    """A whole model's folder as it is; that of an export with adapters without these."""
    export = read_export(config.path)
    path = config.path if export is None else export.require_base()
    try:
        kind = AutoModelForMultimodalLM if family.model_class is None else resolve(family.model_class)
        load = partial(kind.from_pretrained, path, dtype=DTYPES[config.dtype], **(own or {}))
        model = with_attention(load, config)
    except (OSError, ValueError) as error:
        raise _unloadable(path, error) from None
    model.config.use_cache = False
    merge_own_adapters(model)
    if export is not None:
        export.put_trained(model)
    return model


def _known_at(path: str) -> Family | None:
    """The family of a known `model_type`, without building the config: some must be imported before it can be."""
    try:
        values, _ = PreTrainedConfig.get_config_dict(path)
    except (OSError, ValueError) as error:
        raise _unloadable(path, error) from None
    return family_of_type(values.get("model_type"))


def _with_dropout(path: str, rate: float) -> Any:
    """The model's config with every dropout rate in it, also in those of its parts, set to `rate`."""
    whole = load_config(path)
    parts, found = [whole], False
    while parts:
        part = parts.pop()
        for name, value in vars(part).items():
            if isinstance(value, PreTrainedConfig):
                parts.append(value)
            elif type(value) in (int, float) and ("dropout" in name or name.endswith("_pdrop")):
                setattr(part, name, rate)
                found = True
    if not found:
        raise ModelError("this model's config has no dropout rate", where={"key": "model.dropout", "path": path})
    return whole


def trainable_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def without_wrapper(model: torch.nn.Module) -> Any:
    """The `transformers` model itself; adapters stay in its layers and go on working."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _unloadable(path: str, error: Exception) -> ModelError:
    return ModelError(
        "cannot load a model from here",
        where={"path": path},
        got=_first_line(error),
        expected="a folder written by `save_pretrained` (config, weights, processor) or a hub name",
        hint="`gst model tiny --family qwen2_audio --out DIR` writes a small one",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__

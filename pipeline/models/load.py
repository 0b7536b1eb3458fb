"""Load a model and its processor, and decide what learns."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from pipeline.config.schema import ModelConfig
from pipeline.errors import ModelError, nearest

# One progress bar per rank for every load says nothing that the run log does not.
transformers_logging.disable_progress_bar()

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_processor(path: str) -> Any:
    """The processor of a `from_pretrained` folder or hub name.

    Raises:
        ModelError: nothing loadable there.
    """
    try:
        return AutoProcessor.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise _unloadable(path, error) from None


def load_model(config: ModelConfig) -> torch.nn.Module:
    """The model of a recipe with its trainable parts set: LoRA plus `train_modules`, or all but `freeze`.

    Raises:
        ModelError: nothing loadable at `path`, or a named module that matches no parameter.
    """
    try:
        own = {} if config.dropout is None else {"config": _with_dropout(config.path, config.dropout)}
        model = AutoModelForMultimodalLM.from_pretrained(config.path, dtype=DTYPES[config.dtype], **own)
    except (OSError, ValueError) as error:
        raise _unloadable(config.path, error) from None
    model.config.use_cache = False
    if config.mode == "full":
        _require_match(model, config.freeze, "model.freeze")
        _set_trainable(model, lambda name: not _matches(name, config.freeze))
        return model
    _require_match(model, config.train_modules, "model.train_modules")
    lora = PeftLoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=_lora_targets(model, config.lora.targets),
        modules_to_save=None,
    )
    adapted = get_peft_model(model, lora)
    _set_trainable(adapted, lambda name: "lora_" in name or _matches(name, config.train_modules))
    return adapted


def _with_dropout(path: str, rate: float) -> Any:
    """The model's config with every dropout rate in it, also in those of its parts, set to `rate`."""
    whole = AutoConfig.from_pretrained(path)
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


def _set_trainable(model: torch.nn.Module, learns: Any) -> None:
    for name, parameter in model.named_parameters():
        # Whisper-like encoders keep fixed sinusoid positions; the model class froze them and they stay so.
        fixed = "embed_positions" in name
        parameter.requires_grad_(bool(learns(name)) and not fixed)


def trainable_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def without_wrapper(model: torch.nn.Module) -> Any:
    """The `transformers` model itself; adapters stay in its layers and go on working."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def base_digest(path: str) -> str:
    """sha256 over the weight files of a local model folder; for a hub name, of the name.

    Checkpoints leave frozen weights out, so a resumed run must start from the same base: this proves it.
    """
    folder = Path(path)
    digest = hashlib.sha256()
    if not folder.is_dir():
        digest.update(path.encode())
        return digest.hexdigest()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.name.encode())
        with open(file, "rb") as content:
            for block in iter(lambda: content.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def _lora_targets(model: torch.nn.Module, targets: Sequence[str]) -> list[str]:
    """Full names of the language model's linear layers called one of `targets` (never the audio encoder's)."""
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    found = [name for name in linear if "language_model" in name and name.rsplit(".", 1)[-1] in targets]
    if not found:
        known = sorted({name.rsplit(".", 1)[-1] for name in linear if "language_model" in name})
        raise ModelError(
            "no layer of the language model has a name in model.lora.targets", got=list(targets), expected=known
        )
    return found


def _matches(name: str, parts: Sequence[str]) -> bool:
    return any(part in name for part in parts)


def _require_match(model: torch.nn.Module, parts: Sequence[str], key: str) -> None:
    names = [name for name, _ in model.named_parameters()]
    for part in parts:
        if not any(part in name for name in names):
            modules = sorted({piece for name in names for piece in name.split(".") if not piece.isdigit()})
            match = nearest(part, modules)
            raise ModelError(
                "no parameter has this in its name",
                where={"key": key},
                got=part,
                hint=f"did you mean `{match}`?" if match else f"modules: {', '.join(modules)}",
            )


def _unloadable(path: str, error: Exception) -> ModelError:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(
        "cannot load a model from here",
        where={"path": path},
        got=first_line[:300],
        expected="a folder written by `save_pretrained` (config, weights, processor) or a hub name",
        hint="`gst model tiny --family qwen2_audio --out DIR` writes a small one",
    )

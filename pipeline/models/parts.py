"""What of a model learns, part by part: nothing, low-rank adapters, or all of its weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from pipeline.config.schema import LoraConfig, ModelConfig
from pipeline.errors import ModelError
from pipeline.models.family import PARTS, Family, Part

ADAPTER_MARK = "lora_"  # in the names of all weights that peft's LoRA adds, also those of DoRA


def set_parts(model: torch.nn.Module, family: Family, config: ModelConfig) -> torch.nn.Module:
    """A model in which exactly the weights learn that `config.parts` says; in peft's wrapper if any part has adapters.

    Adapters get their first values from torch's global generator. Batch normalisation keeps the statistics that it came
    with: those of a micro-batch would make a clip depend on its neighbours, and ranks drift apart.

    Raises:
        ModelError: a part that is to learn has no weights in this model, or none of its linear layers has a name in
            `config.lora.targets`.
    """
    trainings = {part: getattr(config.parts, part) for part in PARTS}
    _require_weights(model, family, [part for part in PARTS if trainings[part] != "frozen"])
    if config.parts.have_adapters:
        model = get_peft_model(model, adapters_of(config.lora, _targets(model, family, config)))
    for name, parameter in model.named_parameters():
        part = family.part_of(name)
        learns = ADAPTER_MARK in name or (part is not None and trainings[part] == "full")
        parameter.requires_grad_(learns and not family.learns_never(name))
    _keep_statistics(model)
    return model


def adapters_of(lora: LoraConfig, layers: list[str], **more: Any) -> PeftLoraConfig:
    """peft's description of adapters on these layers; `more`: of its further settings."""
    return PeftLoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=layers,
        use_dora=lora.dora,
        use_rslora=lora.rslora,
        **more,
    )


def _targets(model: torch.nn.Module, family: Family, config: ModelConfig) -> list[str]:
    """Full names of the linear layers called one of `lora.targets` in the parts that learn by LoRA."""
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    targets: list[str] = []
    for part in PARTS:
        if getattr(config.parts, part) != "lora":
            continue
        layers = [name for name in linear if family.part_of(name) == part]
        found = [name for name in layers if name.rsplit(".", 1)[-1] in config.lora.targets]
        if not found:
            raise ModelError(
                f"no linear layer of the part `{part}` has a name in model.lora.targets",
                where={"key": "model.lora.targets", "family": family.name},
                got=list(config.lora.targets),
                expected=sorted({name.rsplit(".", 1)[-1] for name in layers}),
            )
        targets += found
    return [name for name in linear if name in set(targets)]


def _require_weights(model: torch.nn.Module, family: Family, parts: list[Part]) -> None:
    there = {family.part_of(name) for name, _ in model.named_parameters() if not family.learns_never(name)}
    for part in parts:
        if part not in there:
            raise ModelError(
                f"this model has no weights in the part `{part}`",
                where={"key": f"model.parts.{part}", "family": family.name},
                expected="frozen",
                hint=f"set model.parts.{part}=frozen, or name its modules in pipeline/models/family.py",
            )


def merge_own_adapters(model: Any) -> None:
    """Put adapters that a published folder brings along (Granite-Speech) into the weights that they adapt, in place.

    `transformers` loads them unasked; left beside the weights they would learn with every part's training, and be taken
    for the recipe's own.
    """
    if not getattr(model, "_hf_peft_config_loaded", False):
        return
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            holder, _, own = name.rpartition(".")
            setattr(model.get_submodule(holder), own, layer.get_base_layer())
    del model.peft_config
    model._hf_peft_config_loaded = False


def _keep_statistics(model: torch.nn.Module) -> None:
    """Leave every batch normalisation in eval mode for good, also when `train()` is called on the model."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
            module.train = partial(_unmoved, module)  # type: ignore[method-assign,assignment]


def _unmoved(module: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
    return module

"""Draws a tiny model's weights and writes its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from pipeline.errors import ModelError, NotBuiltYet
from pipeline.models.family import FAMILIES, family_named, resolve
from pipeline.models.tiny.parts import Tiny, TinySize


def write_tiny_model(
    family: str,
    texts: Iterable[str],
    out: Path,
    *,
    vocab_size: int = 2048,
    width: int = 128,
    beats: bool = True,
    seed: int = 0,
) -> int:
    """Write a random model of `family` with its processor below `out`; returns its parameter count.

    Two encoder layers and three decoder layers of `width`; every other ratio as in the published model. A Whisper front
    has a window of 10 s at 16 kHz: 64 mel bins every 20 ms, 125 audio tokens when full.

    Args:
        beats: for SALMONN, with its second encoder; the other families have none.

    Raises:
        ModelError: unknown family, or no text to train the tokenizer on.
        NotBuiltYet: a family that this version cannot write.
    """
    maker = family_named(family).tiny
    if maker is None:
        built = ", ".join(each.name for each in FAMILIES if each.tiny)
        raise NotBuiltYet(f"tiny model of family `{family}`", hint=f"built so far: {built}")
    tiny: Tiny = resolve(maker)(texts, TinySize(vocab_size, width, beats))
    torch.manual_seed(seed)
    model = tiny.make()
    _scale_up_initial_weights(model)
    for name, module in model.named_modules():
        if name.endswith("embed_positions"):
            _set_sinusoid_positions(module)
    tokenizer = tiny.processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    transformers_logging.disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tiny.processor.save_pretrained(out)
    return sum(parameter.numel() for parameter in model.parameters())


def _scale_up_initial_weights(model: torch.nn.Module) -> None:
    """The published 0.02 is made for widths of thousands; a narrow model learns several times slower from it."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "emb" not in name and "lm_head" not in name:
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)


def _set_sinusoid_positions(embedding: torch.nn.Embedding) -> None:
    """Whisper's fixed positions: sines beside cosines, wavelengths from 2 pi to 20,000 pi frames."""
    length, channels = embedding.weight.shape
    rates = torch.exp(-torch.arange(channels // 2) * (math.log(10_000.0) / (channels // 2 - 1)))
    angles = torch.arange(length)[:, None] * rates[None, :]
    with torch.no_grad():
        embedding.weight.copy_(torch.cat([angles.sin(), angles.cos()], dim=1))


def read_parameter_count(folder: Path) -> int:
    """Number of parameters in a saved folder, from its safetensors headers."""
    from safetensors import safe_open

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is not iterable
                shape = tensors.get_slice(name).get_shape()
                total += int(torch.tensor(shape).prod())
    if not total:
        raise ModelError("no weights in this folder", where={"folder": folder}, expected="*.safetensors")
    return total


def describe(folder: Path) -> dict[str, object]:
    """What `gst model` prints about a folder."""
    config = json.loads((folder / "config.json").read_text())
    return {"model_type": config.get("model_type"), "parameters": read_parameter_count(folder)}

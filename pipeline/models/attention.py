"""Which implementation of attention a model is loaded with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers.utils import is_flash_attn_2_available

from pipeline.config.schema import ModelConfig
from pipeline.errors import ModelError

_NAMES = {"flash": "flash_attention_2", "sdpa": "sdpa", "eager": "eager"}  # as `transformers` calls them


def with_attention(load: Callable[..., Any], config: ModelConfig) -> Any:
    """`load(attn_implementation=...)` as `model.attention` says; None leaves it to `transformers`.

    For `auto` that is flash-attn where it can run and every part of the model can use it, else sdpa in those parts that
    have it and eager in the others.

    Raises:
        ModelError: flash-attn is asked for where it cannot run.
    """
    can_flash = is_flash_attn_2_available() and config.dtype != "fp32"  # False without a GPU
    if config.attention == "flash" and not can_flash:
        raise ModelError(
            "flash-attn cannot run here",
            where={"key": "model.attention"},
            got=f"model.dtype {config.dtype}; flash-attn usable: {is_flash_attn_2_available()}",
            expected="an NVIDIA GPU, the package flash-attn, and model.dtype bf16 or fp16",
            hint="auto takes flash-attn where it can run, and sdpa elsewhere",
        )
    if config.attention != "auto":
        return load(attn_implementation=_NAMES[config.attention])
    if can_flash:
        try:
            return load(attn_implementation=_NAMES["flash"])
        except ValueError:  # a part of this model has none
            pass
    return load(attn_implementation=None)

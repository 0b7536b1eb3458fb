"""What makes a step cheaper without changing it: activation checkpointing, and copies beside the computing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pipeline.errors import ModelError
from pipeline.types import Example

Encode = Callable[[Sequence[Example]], dict[str, torch.Tensor]]


def checkpoint_activations(model: Any) -> None:
    """Keep each layer's input only and run the layer again in backward (Chen et al. 2016, arXiv 1604.06174).

    Not reentrant: layers before the first trained one need no gradient then, and hooks see each gradient once.

    Raises:
        ModelError: a model that does not say where its layers are.
    """
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except (AttributeError, ValueError) as error:
        raise ModelError(
            "this model has no activation checkpointing",
            where={"key": "train.speed.activation_checkpointing"},
            got=str(error).splitlines()[0][:200],
            hint="set it to false; a smaller train.micro_batch saves memory too",
        ) from None
    model.config.get_text_config().use_cache = False  # a cache of keys has no use here, and layers warn of it


def pinned(encode: Encode, device: torch.device) -> Encode:
    """`encode` whose tensors lie in page-locked memory where a GPU reads them: it copies them beside its computing.

    Called in the loader's worker threads, so that locking pages costs the training thread nothing either.
    """
    if device.type != "cuda":
        return encode
    return lambda examples: {name: tensor.pin_memory() for name, tensor in encode(examples).items()}

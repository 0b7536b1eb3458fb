"""One vector for each audio clip: the mean of what the aligner hands to the language model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config.schema import ModelConfig
from pipeline.errors import ModelError
from pipeline.models.encode import AnswerEncoder
from pipeline.models.family import family_of, module_at
from pipeline.models.load import load_base_model, load_processor
from pipeline.types import Example


class _Arrived(Exception):
    """The input of the language model is complete; nothing behind it needs to run."""


class ClipEmbedder:
    """Embeds clips with the untouched base model of a recipe, before any adapter.

    The language model's input is caught in front of its first layer. Its rows at audio tokens are the aligner's output,
    padding left out; so this holds for every model that replaces audio tokens by the aligner's output, whatever its
    aligner is made of.

    Raises:
        ModelError: nothing loadable at `config.path`, or a model whose parts cannot be found.
    """

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        # Adapters, trained parts and dropout are a run's own; clusters are the base model's, for all runs.
        model = load_base_model(config)
        family = family_of(model.config)
        decoder = module_at(model, family.decoder)
        decoder.layers = torch.nn.ModuleList()  # they never run here, and are most of the memory
        decoder.register_forward_pre_hook(self._catch, with_kwargs=True)
        self._model = model.eval().to(device)
        self._audio_token = family.audio_token_id(model.config)
        self._encode = AnswerEncoder(load_processor(config.path))
        self._device = device
        self._caught: torch.Tensor | None = None

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Example]) -> NDArray[np.float32]:
        """[B, H] float32 of `clips`; what their questions say has no influence.

        Raises:
            ModelError: audio of another sample rate than the model's, or an output that is not finite.
        """
        inputs = {name: tensor.to(self._device) for name, tensor in self._encode(clips).items() if name != "labels"}
        with suppress(_Arrived):
            self._model(**inputs)
        assert self._caught is not None
        is_audio = torch.eq(inputs["input_ids"], self._audio_token).unsqueeze(-1)
        summed = torch.where(is_audio, self._caught.float(), 0.0).sum(1)
        self._caught = None
        means: NDArray[np.float32] = (summed / is_audio.sum(1)).cpu().numpy()
        for clip, mean in zip(clips, means, strict=True):
            if not np.isfinite(mean).all():
                raise ModelError("the aligner's output for a clip is not finite", where={"example": clip.id})
        return means

    def _catch(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._caught = kwargs["inputs_embeds"]
        raise _Arrived

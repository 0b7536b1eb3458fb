"""A frozen audio encoder's outputs: computed once for the cache, and a model that takes them in the encoder's place.

The place is `audio_tower` of Qwen2-Audio. A model without its encoder holds none of its weights, so on every rank, and
under ZeRO-3, the same modules run in the same order; that is why all clips' outputs must be there beforehand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen2AudioForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from pipeline.config.schema import ModelConfig
from pipeline.errors import ModelError
from pipeline.models.encode import AnswerEncoder
from pipeline.models.load import load_model, without_wrapper
from pipeline.types import ClipFeatures, Example

KIND = "encoder"
_RATES = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop")


def encoder_digest(model: torch.nn.Module) -> str:
    """sha256 over the weights of a model's audio encoder and what its config says of them.

    Raises:
        ModelError: a model whose encoder's place is not known.
    """
    encoder = _holder(model).audio_tower
    no_part = (*_RATES, "transformers_version", "_name_or_path")
    config = {
        k: v for k, v in encoder.config.to_dict().items() if isinstance(v, int | float | str) and k not in no_part
    }
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"/{name}/{tensor.dtype}/{tuple(tensor.shape)}/".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def use_outputs(model: torch.nn.Module) -> int:
    """Take a model's audio encoder away, in place: from now on it takes the encoder's outputs as `input_features`.

    Returns:
        How many channels these have.

    Raises:
        ModelError: a model whose encoder's place is not known, or an encoder whose outputs change in training, because
            some of it is trained or drops out.
    """
    holder = _holder(model)
    encoder = holder.audio_tower
    trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    rates = {name: getattr(encoder.config, name, 0) for name in _RATES}
    active = {name: rate for name, rate in rates.items() if rate}
    if trained or active:
        raise ModelError(
            "the audio encoder's outputs cannot be cached: they change in training",
            where={"key": "data.features.cache"},
            got=f"{len(trained)} trained parameters, such as {trained[0]}" if trained else active,
            expected="an encoder that is frozen, without dropout",
            hint="`cache: log_mel` suits every run"
            if trained
            else "set model.dropout to 0, or use `cache: log_mel`, which suits every run",
        )
    holder.audio_tower = _Outputs(encoder)
    return int(encoder.config.d_model)


class _Outputs(torch.nn.Module):
    """In the encoder's place: gives back what it is given, as the encoder would have."""

    _like: torch.Tensor

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.config = encoder.config
        self._kind = type(encoder)
        # Moved and cast with the model; the model asks its encoder where it is.
        self.register_buffer("_like", torch.empty(0, dtype=encoder.dtype, device=encoder.device), persistent=False)

    @property
    def device(self) -> torch.device:
        return self._like.device

    def _get_feat_extract_output_lengths(self, input_lengths: torch.Tensor) -> Any:
        """The encoder's own arithmetic, which needs nothing of the encoder."""
        return self._kind._get_feat_extract_output_lengths(self, input_lengths)

    def forward(self, input_features: torch.Tensor, **_: Any) -> BaseModelOutput:
        """[B, H, T] of `ComputedFeatures` as [B, T, H]."""
        return BaseModelOutput(last_hidden_state=input_features.transpose(1, 2).to(self._like.dtype))


class _Arrived(Exception):
    """The encoder's outputs are there; nothing behind it needs to run."""


class OutputsOf:
    """Computes the encoder's outputs of clips with a recipe's base model.

    Raises:
        ModelError: nothing loadable at `config.path`, or a model whose encoder's place is not known.
    """

    def __init__(self, config: ModelConfig, encode: AnswerEncoder, device: torch.device) -> None:
        # What else the run trains is not its encoder's; adapters would only take memory.
        model = load_model(config.model_copy(update={"mode": "full", "freeze": (), "dropout": None}))
        self.digest = encoder_digest(model)
        holder = _holder(model)
        holder.language_model.layers = torch.nn.ModuleList()  # never run here, and most of the memory
        holder.audio_tower.register_forward_hook(self._catch)
        self._model = model.eval().to(device)
        self._encode, self._device = encode, device
        self._caught: torch.Tensor | None = None

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Example]) -> list[ClipFeatures]:
        """[H, audio tokens] float32 of every clip; at least one token, which the model does not read if it has none."""
        inputs = {name: tensor.to(self._device) for name, tensor in self._encode(clips).items() if name != "labels"}
        with suppress(_Arrived):
            self._model(**inputs)
        assert self._caught is not None
        lengths = (
            _holder(self._model)
            .audio_tower._get_feat_extract_output_lengths(inputs["feature_attention_mask"].sum(-1))[1]
            .tolist()
        )
        outputs: NDArray[np.float32] = self._caught.float().cpu().numpy()
        self._caught = None
        return [
            ClipFeatures(KIND, values[: max(1, n)].T, len(clip.audio))
            for clip, values, n in zip(clips, outputs, lengths, strict=True)
        ]

    def _catch(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._caught = output.last_hidden_state
        raise _Arrived


def _holder(model: torch.nn.Module) -> Any:
    """The part of a model that holds `audio_tower`."""
    own = without_wrapper(model)
    if not isinstance(own, Qwen2AudioForConditionalGeneration):
        raise ModelError(
            "it is not known where this model's audio encoder stands",
            where={"key": "data.features.cache", "class": type(own).__name__},
            expected=Qwen2AudioForConditionalGeneration.__name__,
            hint="`cache: log_mel` may suit it",
        )
    return own.model

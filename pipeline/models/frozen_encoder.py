"""A frozen audio encoder's outputs: computed once for the cache, and a model that takes them in the encoder's place.

The place is known by the model's family, for those whose front is Whisper's and whose encoder hears each clip by
itself. A model without its encoder holds none of its weights, so on every rank, and under ZeRO-3, the same modules run
in the same order; that is why all clips' outputs must be there beforehand.
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
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pipeline.config.schema import ModelConfig
from pipeline.errors import ModelError
from pipeline.models.encode import AnswerEncoder
from pipeline.models.family import Family, family_of, module_at
from pipeline.models.load import load_base_model, without_wrapper
from pipeline.models.prompts import pooled
from pipeline.types import ClipFeatures, Example

KIND = "encoder"
_RATES = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "layerdrop")


def encoder_digest(model: torch.nn.Module) -> str:
    """sha256 over the weights of a model's audio encoder and what its config says of them.

    Raises:
        ModelError: a model whose encoder's place is not known.
    """
    family, encoder = _placed(model)
    no_part = (*_RATES, "transformers_version", "_name_or_path")
    config = {
        k: v for k, v in encoder.config.to_dict().items() if isinstance(v, int | float | str) and k not in no_part
    }
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        if family.part_of(f"{family.encoder}.{name}") != "encoder":
            continue  # an aligner inside the encoder
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
    family, encoder = _placed(model)
    trained = [
        name
        for name, parameter in encoder.named_parameters()
        if parameter.requires_grad and family.part_of(f"{family.encoder}.{name}") == "encoder"
    ]
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
    holder, _, name = family.encoder.rpartition(".")
    setattr(module_at(without_wrapper(model), holder), name, _Outputs(encoder, family))
    return int(encoder.config.d_model)


class _Outputs(torch.nn.Module):
    """In the encoder's place: gives back what it is given, as the encoder would have.

    An aligner that stands inside the encoder stays here, under its own name, and is run.
    """

    _like: torch.Tensor

    def __init__(self, encoder: Any, family: Family) -> None:
        super().__init__()
        self.config = encoder.config
        self._kind = type(encoder)
        self._packed = family.packs_frames
        self._inside = _aligner_inside(family)
        for name in self._inside:
            setattr(self, name, getattr(encoder, name))
        # Moved and cast with the model; the model asks its encoder where it is.
        self.register_buffer("_like", torch.empty(0, dtype=encoder.dtype, device=encoder.device), persistent=False)

    @property
    def device(self) -> torch.device:
        return self._like.device

    def _get_feat_extract_output_lengths(self, input_lengths: torch.Tensor) -> Any:
        """The encoder's own arithmetic, which needs nothing of the encoder; for packed outputs there is none."""
        if self._packed:
            return input_lengths, input_lengths
        return self._kind._get_feat_extract_output_lengths(self, input_lengths)

    def forward(self, input_features: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """[R, H, T] of `audio_tensors` as [R, T, H]; or packed, [H, all T] as [all T, H]."""
        hidden = input_features.transpose(-2, -1).to(self._like.dtype)
        for name in self._inside:
            hidden = getattr(self, name)(hidden)
        return BaseModelOutputWithPooling(last_hidden_state=hidden)


class _Arrived(Exception):
    """The encoder's outputs are there; nothing behind it needs to run."""


class OutputsOf:
    """Computes the encoder's outputs of clips with a recipe's base model.

    Raises:
        ModelError: nothing loadable at `config.path`, or a model whose encoder's place is not known.
    """

    def __init__(self, config: ModelConfig, encode: AnswerEncoder, device: torch.device) -> None:
        assert encode.log_mel is not None
        model = load_base_model(config)
        self.digest = encoder_digest(model)
        self._family, encoder = _placed(model)
        module_at(model, self._family.decoder).layers = torch.nn.ModuleList()  # never run here, and most of the memory
        inside = _aligner_inside(self._family)
        if inside:
            getattr(encoder, inside[0]).register_forward_pre_hook(lambda module, args: self._catch(args[0]))
        else:
            encoder.register_forward_hook(lambda module, args, output: self._catch(output.last_hidden_state))
        self._model = model.eval().to(device)
        self._encode, self._device, self._log_mel = encode, device, encode.log_mel
        self._caught: torch.Tensor | None = None

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Example]) -> list[ClipFeatures]:
        """[H, outputs] float32 of every clip; at least one output, which the model does not read if it has none."""
        inputs = {name: tensor.to(self._device) for name, tensor in self._encode(clips).items() if name != "labels"}
        with suppress(_Arrived):
            self._model(**inputs)
        assert self._caught is not None
        windows = [self._log_mel.valid_frames(len(clip.audio)) for clip in clips]
        rows = iter(self._rows(self._caught.float(), torch.tensor([frames for each in windows for frames in each])))
        self._caught = None
        values: list[NDArray[np.float32]] = [torch.cat([next(rows) for _ in each]).cpu().numpy().T for each in windows]
        return [ClipFeatures(KIND, each, len(clip.audio)) for clip, each in zip(clips, values, strict=True)]

    def _rows(self, outputs: torch.Tensor, valid_frames: torch.Tensor) -> list[torch.Tensor]:
        """[outputs, H] of every window: those of its valid frames, or all where the whole window is heard."""
        if self._family.padding != "masked":
            return list(outputs)
        lengths = pooled(valid_frames).tolist()
        if self._family.packs_frames:
            nothing = outputs.new_zeros(1, outputs.shape[-1])
            return [row if len(row) else nothing for row in outputs.split(lengths)]
        return [row[: max(1, n)] for row, n in zip(outputs, lengths, strict=True)]

    def _catch(self, outputs: torch.Tensor) -> None:
        self._caught = outputs
        raise _Arrived


def _aligner_inside(family: Family) -> tuple[str, ...]:
    """Names of the aligner's modules that stand in the encoder."""
    prefix = f"{family.encoder}."
    return tuple(path.removeprefix(prefix) for path in family.parts["aligner"] if path.startswith(prefix))


def _placed(model: torch.nn.Module) -> tuple[Family, Any]:
    """A model's family and its audio encoder."""
    own = without_wrapper(model)
    config = getattr(own, "config", None)
    family = None if config is None else family_of(config)
    if family is None or not family.whisper_front:
        raise ModelError(
            "the outputs of this model's audio encoder cannot be cached",
            where={"key": "data.features.cache", "class": type(own).__name__},
            expected="a model whose front is Whisper's, and whose encoder hears each clip by itself",
            hint="`cache: none` suits every model",
        )
    return family, module_at(own, family.encoder)

"""Model families: where an audio-text model's parts stand, how it is prompted, and how its audio is padded.

One frozen `Family` holds all that the rest of the house must know about a kind of model, so that nothing guesses from
names: training by part, adapters, encoding, cached encoder outputs, embeddings of clips, export, the memory estimate.
A family is found by its config's `model_type` (`family_of`); a model whose type is not in `FAMILIES` is read by its
structure, if it has an audio encoder and a language model where `transformers` expects them.

Names of modules are those of the `transformers` model itself (what `pipeline.models.load.without_wrapper` gives); the
prefix that peft puts before them is taken off by `part_of` and `own_name`.

To add a family: an entry in `FAMILIES`; a class of prompts if its processor does not render a chat template and expand
audio tokens by itself (`pipeline.models.prompts`); a function that writes a tiny one (`pipeline.models.tiny`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from pipeline.errors import ModelError, nearest

Part = Literal["encoder", "aligner", "llm"]
PARTS: tuple[Part, ...] = get_args(Part)

PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Family:
    """What is known of one kind of audio-text model.

    Attributes:
        name: as in `gst model tiny --family NAME`.
        model_types: of the configs that it covers.
        parts: part -> path prefixes of its modules; the longest prefix decides, so that an aligner may stand inside an
            encoder. Modules under no prefix (a vision tower) are of no part and stay frozen.
        decoder: path of the language model without its head; its `layers` are the blocks, and its input
            `inputs_embeds` holds the aligner's output at audio tokens.
        encoder: path of the audio encoder, which is called once a forward, for all clips of a micro-batch.
        head: path of the output layer.
        fixed: paths below which nothing ever learns: fixed positions, and weights that no forward uses.
        features: the model's input of audio features: [clips or windows, ...].
        features_mask: the input that tells the valid frames of `features`; None: it has no such mask.
        padding: what padding does to a clip. `masked`: nothing, so clips may be padded to the longest of their
            micro-batch. `window`: it is part of the clip, which always fills the window. `batch`: the processor pads
            to the longest clip itself.
        whisper_front: whether the features are Whisper's log-mel, which `pipeline.models.features` computes, with as
            many audio tokens as `pipeline.models.prompts` counts.
        long_clips: what becomes of a clip beyond Whisper's window, see `pipeline.models.features.LogMel`.
        packs_frames: the model takes padded frames out before its encoder, so outputs in the encoder's place need a
            mask of their own length.
        position_table: the encoder adds a whole table of positions `<encoder>.<position_table>.weight` and so insists
            on its window; None: it takes any length.
        model_class: `module:Class` to load; None: the one that `AutoModelForMultimodalLM` chooses.
        audio_in_text: the chat template takes text only, and the audio token is written in it.
        system_prompt: of every conversation; None: what the chat template says by itself.
        prompts: `module:Class` that makes prompts and audio tensors, see `pipeline.models.prompts`.
        processor_class: name of its processor's class.
        processor_package: that its published processor needs, and this distribution does not bring along.
        processor: `module:function` of a path, loading its processor; None: `AutoProcessor` does.
        tiny: `module:function` that writes a tiny random one, see `pipeline.models.tiny`; None: not built.
    """

    name: str
    model_types: tuple[str, ...]
    parts: Mapping[Part, tuple[str, ...]]
    decoder: str
    encoder: str
    head: str = "lm_head"
    fixed: tuple[str, ...] = ()
    features: str = "input_features"
    features_mask: str | None = None
    padding: Literal["masked", "window", "batch"] = "window"
    whisper_front: bool = False
    long_clips: Literal["cut", "windows", "whole"] = "cut"
    packs_frames: bool = False
    position_table: str | None = None
    model_class: str | None = None
    audio_in_text: bool = False
    system_prompt: str | None = None
    prompts: str = "pipeline.models.prompts:ProcessorPrompts"
    processor_class: str | None = None
    processor_package: str | None = None
    processor: str | None = None
    tiny: str | None = None

    def part_of(self, name: str) -> Part | None:
        """The part that a module or parameter belongs to, by its name with or without peft's prefix."""
        own = own_name(name)
        found = [(prefix, part) for part, prefixes in self.parts.items() for prefix in prefixes if _below(own, prefix)]
        return max(found, key=lambda each: len(each[0]))[1] if found else None

    def learns_never(self, name: str) -> bool:
        """Whether a parameter stays as it is whatever a recipe says."""
        return self.part_of(name) is None or any(_below(own_name(name), path) for path in self.fixed)

    def audio_token_id(self, config: Any) -> int:
        """The id of the token in whose place the aligner's output goes."""
        return int(next(getattr(config, key) for key in _AUDIO_TOKEN_KEYS if getattr(config, key, None) is not None))


_AUDIO_TOKEN_KEYS = ("audio_token_id", "audio_token_index")
_LLM = ("model.language_model", "lm_head")
_PROJECTOR = ("model.multi_modal_projector",)
_TOWER = "model.audio_tower"

_GRANITE_SYSTEM_PROMPT = (
    "Knowledge Cutoff Date: April 2024.\nToday's Date: April 9, 2025.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant"
)

FAMILIES: tuple[Family, ...] = (
    Family(
        name="qwen2_audio",
        model_types=("qwen2_audio",),
        parts={"encoder": (_TOWER,), "aligner": _PROJECTOR, "llm": _LLM},
        decoder="model.language_model",
        encoder=_TOWER,
        fixed=(f"{_TOWER}.embed_positions",),
        features_mask="feature_attention_mask",
        padding="masked",
        whisper_front=True,
        position_table="embed_positions",
        processor_class="Qwen2AudioProcessor",
        tiny="pipeline.models.tiny.qwen:qwen2_audio",
    ),
    Family(
        name="qwen2_5_omni",
        # The thinker alone is loaded; the talker and its vocoder have no part in answers as text.
        model_types=("qwen2_5_omni_thinker", "qwen2_5_omni"),
        model_class="transformers:Qwen2_5OmniThinkerForConditionalGeneration",
        parts={"encoder": (_TOWER,), "aligner": (f"{_TOWER}.proj",), "llm": _LLM},
        decoder="model.language_model",
        encoder=_TOWER,
        fixed=(f"{_TOWER}.audio_bos_eos_token",),
        features_mask="feature_attention_mask",
        padding="masked",
        whisper_front=True,
        packs_frames=True,
        processor_class="Qwen2_5OmniProcessor",
        processor="pipeline.models.omni:load_omni_processor",
        tiny="pipeline.models.tiny.qwen:qwen2_5_omni",
    ),
    Family(
        name="audio_flamingo_3",
        model_types=("audioflamingo3",),
        model_class="transformers:AudioFlamingo3ForConditionalGeneration",
        parts={"encoder": (_TOWER,), "aligner": _PROJECTOR, "llm": _LLM},
        decoder="model.language_model",
        encoder=_TOWER,
        fixed=(f"{_TOWER}.embed_positions",),
        features_mask="input_features_mask",
        padding="masked",
        whisper_front=True,
        long_clips="windows",
        position_table="embed_positions",
        processor_class="AudioFlamingo3Processor",
        tiny="pipeline.models.tiny.audio_flamingo:audio_flamingo_3",
    ),
    Family(
        name="voxtral",
        model_types=("voxtral",),
        parts={"encoder": (_TOWER,), "aligner": _PROJECTOR, "llm": _LLM},
        decoder="model.language_model",
        encoder=_TOWER,
        fixed=(f"{_TOWER}.embed_positions",),
        padding="window",
        whisper_front=True,
        long_clips="whole",
        prompts="pipeline.models.prompts:VoxtralPrompts",
        processor_class="VoxtralProcessor",
        processor_package="mistral-common",
        tiny="pipeline.models.tiny.voxtral:voxtral",
    ),
    Family(
        name="granite_speech",
        model_types=("granite_speech",),
        parts={"encoder": ("model.encoder",), "aligner": ("model.projector",), "llm": _LLM},
        decoder="model.language_model",
        encoder="model.encoder",
        # The mask is of the aligner's output: which of its rows are a clip's.
        features_mask="input_features_mask",
        padding="batch",
        audio_in_text=True,
        # The published template writes today's date if none is given, and prompts must not change from day to day.
        system_prompt=_GRANITE_SYSTEM_PROMPT,
        processor="pipeline.models.granite:load_granite_processor",
        processor_class="GraniteSpeechProcessor",
        tiny="pipeline.models.tiny.granite:granite_speech",
    ),
    Family(
        name="salmonn",
        model_types=("salmonn",),
        # Whisper with BEATs beside it; norms, window-level Q-Former and projection.
        parts={"encoder": ("model.encoder",), "aligner": ("model.aligner",), "llm": _LLM},
        decoder="model.language_model",
        encoder="model.encoder",
        fixed=("model.encoder.whisper.embed_positions",),
        padding="window",
        model_class="pipeline.models.salmonn:SalmonnForConditionalGeneration",
        processor="pipeline.models.salmonn:load_salmonn_processor",
        processor_class="SalmonnProcessor",
        tiny="pipeline.models.salmonn.tiny:salmonn",
    ),
)


def own_name(name: str) -> str:
    """A module's or parameter's name without peft's prefix."""
    return name.removeprefix(PEFT_PREFIX)


def resolve(reference: str) -> Any:
    """What `module:attribute` names, imported when it is wanted."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def family_named(name: str) -> Family:
    """A family by its own name.

    Raises:
        ModelError: no family is called so.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    names = [family.name for family in FAMILIES]
    match = nearest(name, names)
    raise ModelError(
        "unknown model family",
        got=name,
        expected=", ".join(names),
        hint=f"did you mean `{match}`?" if match else None,
    )


def family_of(config: Any) -> Family:
    """The family of a `transformers` model by its config; by its structure where its `model_type` is not known here.

    Raises:
        ModelError: a model without an audio encoder and a language model in places that can be found.
    """
    return family_of_type(getattr(config, "model_type", None)) or _by_structure(config)


def family_of_type(model_type: str | None) -> Family | None:
    """The family that covers a config's `model_type`, if it is known here."""
    return next((family for family in FAMILIES if model_type in family.model_types), None)


def family_of_processor(processor: Any) -> Family | None:
    """The family whose processor this is, by its class; None where it is not known here."""
    kind = type(processor).__name__
    return next((family for family in FAMILIES if kind == family.processor_class), None)


def module_at(model: torch.nn.Module, path: str) -> Any:
    """The module at a path of a model without peft's wrapper."""
    return model.get_submodule(path)


def _below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _by_structure(config: Any) -> Family:
    """A family for a model that `transformers` can build: weightless here, only its modules' places are wanted."""
    from transformers import AutoModelForMultimodalLM

    try:
        with torch.device("meta"):
            model: Any = AutoModelForMultimodalLM.from_config(config)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise _unknown(config, str(error).splitlines()[0][:200]) from None
    paths = {id(module): path for path, module in model.named_modules()}
    encoder = paths.get(id(model.get_encoder(modality="audio")), "")
    decoder = paths.get(id(model.get_decoder()), "")
    head = paths.get(id(model.get_output_embeddings()), "")
    has_token = any(getattr(config, key, None) is not None for key in _AUDIO_TOKEN_KEYS)
    if not encoder or not decoder or not head or encoder == decoder or not has_token:
        found = {"audio encoder": encoder, "language model": decoder, "head": head, "audio token": has_token}
        raise _unknown(config, ", ".join(f"{name}: {place or 'not found'}" for name, place in found.items()))
    holder = encoder.rpartition(".")[0]
    vision = {id(model.get_encoder(modality="image"))}
    between = tuple(
        paths[id(child)]
        for _, child in module_at(model, holder).named_children()
        if any(True for _ in child.parameters())
        and id(child) not in vision
        and paths[id(child)] not in (encoder, decoder, head)
    )
    return Family(
        name=str(config.model_type),
        model_types=(str(config.model_type),),
        parts={"encoder": (encoder,), "aligner": between, "llm": (decoder, head)},
        decoder=decoder,
        encoder=encoder,
        head=head,
        fixed=(f"{encoder}.embed_positions",),
    )


def _unknown(config: Any, found: str) -> ModelError:
    return ModelError(
        "it is not known where the parts of this model stand",
        where={"model_type": getattr(config, "model_type", None)},
        got=found,
        expected=f"one of {', '.join(family.name for family in FAMILIES)}, or an audio encoder and a language model "
        "where `transformers` keeps them",
        hint="add an entry to FAMILIES in pipeline/models/family.py",
    )

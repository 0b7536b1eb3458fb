"""`gst model salmonn`: one `from_pretrained` folder from the published pieces of SALMONN."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from pipeline.atomic import folder_atomic
from pipeline.errors import ModelError
from pipeline.models.salmonn.config import AUDIO_TOKEN, PAD_TOKEN, BeatsConfig, SalmonnConfig, qformer_config
from pipeline.models.salmonn.keymap import ALIGNER, BEATS, LLM, WHISPER, beats_state, listing, trained_names
from pipeline.models.salmonn.modeling import SalmonnForConditionalGeneration
from pipeline.models.salmonn.processor import SalmonnProcessor

LORA_ALPHA = 32.0

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Assembled:
    """What an assembly read and wrote: numbers of tensors, and of parameters in the folder."""

    trained: int
    adapters: int
    unused: tuple[str, ...]
    parameters: int


def assemble(
    whisper: str,
    llm: str,
    checkpoint: Path,
    out: Path,
    *,
    beats: Path | None = None,
    lora_alpha: float = LORA_ALPHA,
    dtype: torch.dtype | None = None,
) -> Assembled:
    """Write SALMONN below `out`; the folder appears whole or not at all.

    The checkpoint's LoRA goes into the language model's weights, W + (alpha / r) B A, summed in float32: the folder is
    the published model, and a run puts a LoRA of its own around it. Tensors are stored as they came, or as `dtype`. The
    language model gets two more tokens, for padding and for audio, with mean rows.

    Args:
        whisper, llm: `from_pretrained` folders; as published Whisper-large-v2 and Vicuna-13B v1.1.
        checkpoint: SALMONN's own, `salmonn_v1.pth`.
        beats: BEATs' checkpoint; None: a model that was trained without.
        lora_alpha: of the checkpoint's LoRA; its rank is seen from the tensors.
        dtype: of all tensors in the folder; None: as they come.

    Raises:
        ModelError: a file cannot be read; tensors are unknown, missing, left over or misshapen; `out` is in use.
    """
    _require_empty(out)
    published = _read(checkpoint, "model")
    names = trained_names(published, str(checkpoint))
    trained, adapters = _sorted_out(published, names)
    beats_config, beats_tensors = (None, {}) if beats is None else read_beats(beats)
    whisper_config, whisper_tensors = _read_whisper(whisper)
    extractor = WhisperFeatureExtractor.from_pretrained(whisper)
    tokenizer = _tokenizer(llm)
    llm_config, llm_tensors, end_of_answer = _read_llm(llm, len(tokenizer))
    merge_lora(llm_tensors, adapters, lora_alpha)
    config = SalmonnConfig(
        speech_config=whisper_config,
        audio_config=beats_config,
        window_s=extractor.chunk_length,
        audio_token_id=tokenizer.convert_tokens_to_ids(AUDIO_TOKEN),
        **_llm_settings(llm_config),
        **_aligner_sizes(trained, str(checkpoint)),
    )
    state = {**trained, **whisper_tensors, **beats_tensors, **llm_tensors}
    model = _filled(config, state, with_beats=beats is not None).to(dtype)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=end_of_answer, pad_token_id=tokenizer.pad_token_id
    )
    mel_bins = beats_config.num_mel_bins if beats_config else None
    processor = SalmonnProcessor(extractor, tokenizer, audio_length=config.audio_length, fbank_mel_bins=mel_bins)
    with folder_atomic(out) as draft:
        model.save_pretrained(draft)
        processor.save_pretrained(draft)
    return Assembled(
        trained=len(trained),
        adapters=len(adapters),
        unused=tuple(name for name, here in names.items() if here is None),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _sorted_out(published: State, names: Mapping[str, str | None]) -> tuple[State, State]:
    """What was trained in full, and LoRA's pairs, under the names here."""
    trained = {here: published[name] for name, here in names.items() if here is not None}
    return trained, {name: trained.pop(name) for name in list(trained) if ".lora_" in name}


def merge_lora(llm: State, adapters: State, alpha: float) -> None:
    """Add LoRA's products to the language model's weights, in place of these in `llm`.

    Raises:
        ModelError: half of a pair, a weight that `llm` lacks, or layers without LoRA beside others that have it.
    """
    having = {name.rpartition(".lora_")[0] for name in adapters}
    targets = {layer.rpartition(".")[2] for layer in having}
    alike = {name.removesuffix(".weight") for name in llm if name.split(".")[-2] in targets}
    for layer in sorted(having | alike):
        down, up = adapters.get(f"{layer}.lora_A.weight"), adapters.get(f"{layer}.lora_B.weight")
        weight = llm.get(f"{layer}.weight")
        if down is None or up is None or weight is None or (up.shape[0], down.shape[1]) != tuple(weight.shape):
            raise ModelError(
                "LoRA of the checkpoint does not fit the language model",
                where={"layer": layer},
                got={"A": _shape(down), "B": _shape(up), "weight": _shape(weight)},
                expected="A [r, in], B [out, r] and a weight [out, in]",
                hint="give the language model that the checkpoint was trained with",
            )
        product = (alpha / down.shape[0]) * (up.float() @ down.float())
        llm[f"{layer}.weight"] = (weight.float() + product).to(weight.dtype)


def read_beats(path: Path) -> tuple[BeatsConfig, State]:
    """Config and tensors of BEATs' checkpoint, under the names of the whole model.

    Raises:
        ModelError: a file that is not such a checkpoint, or another kind of BEATs.
    """
    values, published = _read(path, "cfg"), _read(path, "model")
    kind = {key: values.get(key) for key in ("deep_norm", "relative_position_embedding", "gru_rel_pos")}
    if not all(kind.values()) or values.get("layer_norm_first") or values.get("activation_fn", "gelu") != "gelu":
        raise ModelError(
            "another kind of BEATs than SALMONN's",
            where={"file": path},
            got=kind,
            expected="deep norm and a gated relative position bias",
        )
    same = ("embed_dim", "conv_pos", "conv_pos_groups", "num_buckets", "max_distance", "dropout")
    renamed = {
        "patch_size": "input_patch_size",
        "hidden_size": "encoder_embed_dim",
        "intermediate_size": "encoder_ffn_embed_dim",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
        "attention_dropout": "attention_dropout",
        "activation_dropout": "activation_dropout",
    }
    wanted = {**{key: key for key in same}, **renamed}
    config = BeatsConfig(**{ours: values[theirs] for ours, theirs in wanted.items() if theirs in values})
    return config, {BEATS + name: tensor for name, tensor in beats_state(published, str(path)).items()}


def _require_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError("there is something in this folder already", where={"folder": out}, hint="choose another one")


def _read(path: Path, key: str) -> Any:
    try:
        # Tensors and plain values only: a checkpoint must not be able to run anything.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)[key]
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError) as error:
        raise ModelError(
            "not a checkpoint that can be read here",
            where={"file": path},
            got=f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}",
            expected=f"a file of torch.save with `{key}` in it",
        ) from None


def _read_whisper(path: str) -> tuple[Any, State]:
    model = _from_pretrained(WhisperModel, path)
    return model.config, {WHISPER + name: tensor for name, tensor in model.encoder.state_dict().items()}


def _read_llm(path: str, vocab_size: int) -> tuple[Any, State, Any]:
    """Config, tensors and end token; rows for new tokens are the mean of those that there are."""
    model = _from_pretrained(AutoModelForCausalLM, path)
    state = {_llm_name(name): tensor for name, tensor in model.state_dict().items()}
    for name in (f"{LLM}embed_tokens.weight", "lm_head.weight"):
        rows = state[name]
        mean = rows.float().mean(0, keepdim=True).to(rows.dtype)
        state[name] = torch.cat([rows, mean.expand(max(0, vocab_size - len(rows)), -1)])
    model.config.vocab_size = len(state["lm_head.weight"])
    return model.config, state, model.generation_config.eos_token_id


def _llm_name(name: str) -> str:
    return LLM + name.removeprefix("model.") if name.startswith("model.") else name


def _from_pretrained(kind: Any, path: str) -> Any:
    try:
        return kind.from_pretrained(path, dtype="auto")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot load a {kind.__name__} from here", where={"path": path}, got=str(error).splitlines()[0][:300]
        ) from None


def _tokenizer(path: str) -> Any:
    """The language model's tokenizer with a token for padding and one for audio behind all others."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ModelError(
            "cannot load a tokenizer from here", where={"path": path}, got=str(error).splitlines()[0][:300]
        ) from None
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    tokenizer.add_tokens([AUDIO_TOKEN], special_tokens=True)
    tokenizer.padding_side = "right"
    return tokenizer


def _llm_settings(llm: Any) -> dict[str, Any]:
    """The language model's part of the config; what it says of the output layer and of numbers is true of the whole."""
    return {"text_config": llm, "tie_word_embeddings": llm.tie_word_embeddings, "dtype": llm.dtype}


def _aligner_sizes(trained: State, source: str) -> dict[str, Any]:
    """The aligner's part of the config, as its tensors show it; the heads are BERT-base's, which nothing shows."""
    layer = f"{ALIGNER}qformer.encoder.layer"
    numbers = [int(name.removeprefix(f"{layer}.").split(".")[0]) for name in trained if name.startswith(f"{layer}.")]
    inner = _first(trained, f"{layer}.0.intermediate_query.dense.weight", source)
    keys = _first(trained, f"{layer}.0.crossattention.attention.key.weight", source)
    sizes = {"hidden_size": inner.shape[1], "intermediate_size": inner.shape[0], "num_hidden_layers": max(numbers) + 1}
    return {
        "qformer_config": qformer_config(keys.shape[1], **sizes),
        "num_query_tokens": _first(trained, f"{ALIGNER}query_tokens", source).shape[1],
    }


def _first(state: State, name: str, source: str) -> torch.Tensor:
    if name not in state:
        raise ModelError("a tensor is missing in the checkpoint", where={"file": source}, expected=name)
    return state[name]


def _filled(config: SalmonnConfig, state: Mapping[str, torch.Tensor], with_beats: bool) -> Any:
    """The model with these tensors, every one of which it must want, and no other."""
    with torch.device("meta"):
        model = SalmonnForConditionalGeneration(config)
    wanted = model.state_dict()
    missing, left = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    other = [
        f"{name} {_shape(state[name])} for {_shape(tensor)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if missing or left or other:
        pieces = {"missing": missing, "left over": left, "of another shape": other}
        raise ModelError(
            "the pieces do not make a SALMONN",
            got="; ".join(f"{len(names)} {kind}: {listing(names)}" for kind, names in pieces.items() if names),
            hint=None if with_beats else "was the checkpoint trained with BEATs? Then give --beats",
        )
    model.load_state_dict(dict(state), strict=True, assign=True)
    return model


def _shape(tensor: torch.Tensor | None) -> list[int] | None:
    return None if tensor is None else list(tensor.shape)

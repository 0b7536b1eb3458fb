"""Names of the published checkpoints' tensors, and what they are called here.

SALMONN comes in four pieces: its own checkpoint (`salmonn_v1.pth`: the parts that it trained), BEATs', and folders of
Whisper and of the language model in `transformers` form. A name that no rule knows is an error: nothing is dropped in
silence, which the published loader (`strict=False`) does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.errors import ModelError

ALIGNER = "model.aligner."
WHISPER = "model.encoder.whisper."
BEATS = "model.encoder.beats."
LLM = "model.language_model."


@dataclass(frozen=True)
class Rule:
    """A published name as a pattern, and what its groups make here; None: known, and of no use here."""

    published: str
    here: str | None


_LAYER = r"speech_Qformer\.bert\.encoder\.layer\.(\d+)\."
_WRAPPED = r"llama_model\.base_model\.model\.model\."

# Of SALMONN's own checkpoint. Peft wrote an adapter's name (`.default`) into its tensors' names in some versions only.
TRAINED = (
    Rule(r"(ln_speech|ln_audio)\.(weight|bias)", rf"{ALIGNER}\1.\2"),
    Rule(r"speech_query_tokens", f"{ALIGNER}query_tokens"),
    Rule(r"speech_llama_proj\.(weight|bias)", rf"{ALIGNER}projection.\1"),
    Rule(r"speech_Qformer\.bert\.embeddings\.LayerNorm\.(weight|bias)", rf"{ALIGNER}qformer.layernorm.\1"),
    Rule(
        _LAYER + r"(attention|crossattention)\.self\.(query|key|value)\.(weight|bias)",
        rf"{ALIGNER}qformer.encoder.layer.\1.\2.attention.\3.\4",
    ),
    Rule(
        _LAYER + r"((?:attention|crossattention)\.output|intermediate_query|output_query)\."
        r"(dense|LayerNorm)\.(weight|bias)",
        rf"{ALIGNER}qformer.encoder.layer.\1.\2.\3.\4",
    ),
    Rule(
        _WRAPPED + r"(layers\.\d+\.self_attn\.(?:q|k|v|o)_proj)\.lora_(A|B)(?:\.default)?\.weight",
        rf"{LLM}\1.lora_\2.weight",
    ),
    Rule(r"speech_Qformer\.bert\.embeddings\.position_ids", None),  # queries have no position
    Rule(_WRAPPED + r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq", None),  # follows from the config
)

# Of BEATs' checkpoint. All its layers hold the first one's bias; its convolution's weight is g * v / |v|.
_BEATS = (
    Rule(r"patch_embedding\.weight", "patch_embedding.weight"),
    Rule(r"layer_norm\.(weight|bias)", r"patch_norm.\1"),
    Rule(r"post_extract_proj\.(weight|bias)", r"patch_proj.\1"),
    Rule(r"encoder\.pos_conv\.0\.weight_[gv]", "pos_conv.weight"),
    Rule(r"encoder\.pos_conv\.0\.bias", "pos_conv.bias"),
    Rule(r"encoder\.layer_norm\.(weight|bias)", r"layer_norm.\1"),
    Rule(r"encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight", "relative_attention_bias.weight"),
    Rule(r"encoder\.(layers\.\d+\.self_attn\.(?:q|k|v|out)_proj\.(?:weight|bias))", r"\1"),
    Rule(r"encoder\.(layers\.\d+\.self_attn\.(?:grep_a|grep_linear\.weight|grep_linear\.bias))", r"\1"),
    Rule(r"encoder\.(layers\.\d+\.(?:self_attn_layer_norm|fc1|fc2|final_layer_norm)\.(?:weight|bias))", r"\1"),
    Rule(r"predictor\.(weight|bias)", None),  # the classifier of sounds: SALMONN takes what goes into it
)


def map_names(names: Iterable[str], rules: Sequence[Rule], source: str) -> dict[str, str | None]:
    """Published name -> name here; None: of no use here.

    Raises:
        ModelError: names that no rule knows; it lists them.
    """
    mapped, unknown = {}, []
    for name in names:
        found = next(((rule, match) for rule in rules if (match := re.fullmatch(rule.published, name))), None)
        if found is None:
            unknown.append(name)
        else:
            rule, match = found
            mapped[name] = None if rule.here is None else match.expand(rule.here)
    if unknown:
        raise ModelError("tensors whose names are not known", where={"file": source}, got=listing(unknown))
    return mapped


def trained_names(names: Iterable[str], source: str = "checkpoint") -> dict[str, str | None]:
    """Names of SALMONN's own checkpoint -> names here; LoRA's as peft saves them, without its prefix."""
    return map_names(names, TRAINED, source)


def beats_names(names: Iterable[str], source: str = "BEATs") -> dict[str, str | None]:
    """Names of BEATs' checkpoint -> names within the encoder here."""
    return map_names(names, _BEATS, source)


def beats_state(published: Mapping[str, torch.Tensor], source: str = "BEATs") -> dict[str, torch.Tensor]:
    """The published weights of BEATs under the names here.

    Raises:
        ModelError: names that are not known, half of the convolution's weight, layers with biases of their own.
    """
    state: dict[str, torch.Tensor] = {}
    for name, here in beats_names(published, source).items():
        if here is None or name.endswith("weight_g"):
            continue
        tensor = published[name]
        if name.endswith("weight_v"):
            tensor = _normed(published, name, source)
        if here in state and not torch.equal(state[here], tensor):
            raise ModelError(
                "layers with relative position biases of their own",
                where={"file": source, "tensor": name},
                expected="the first layer's in all of them",
            )
        state[here] = tensor
    return state


def listing(names: Sequence[str], most: int = 20) -> str:
    """Names for an error, the first so many of them."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _normed(published: Mapping[str, torch.Tensor], name: str, source: str) -> torch.Tensor:
    """g * v / |v| with a norm for each place in the kernel (`weight_norm` of torch with `dim=2`)."""
    scale = published.get(f"{name.removesuffix('v')}g")
    if scale is None:
        raise ModelError("the convolution lacks its norm", where={"file": source}, expected=f"{name[:-1]}g")
    return torch._weight_norm(published[name], scale, 2)

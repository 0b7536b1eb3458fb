"""Every tensor of the published SALMONN-13B, its name and shape, described by hand from the released code.

Sources: github.com/bytedance/SALMONN (branch `salmonn`: models/salmonn.py, models/Qformer.py, configs/config.yaml),
github.com/microsoft/unilm (beats), and the model cards of Whisper-large-v2 and Vicuna-13B v1.1. Nothing here
looks at our own model, but for `config_13b`. `small` has the same names with smaller shapes, to make a checkpoint of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.models.salmonn import SalmonnConfig
from pipeline.models.shape import SHAPES

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """Of the parts: W Whisper, B BEATs, Q the Q-Former, L the language model."""

    w_width: int = 1280
    w_layers: int = 32
    w_inner: int = 5120
    w_mels: int = 80
    w_frames: int = 1500
    b_width: int = 768
    b_layers: int = 12
    b_inner: int = 3072
    b_heads: int = 12
    b_embed: int = 512
    b_conv: int = 128
    b_conv_groups: int = 16
    b_buckets: int = 320
    b_classes: int = 527
    q_width: int = 768
    q_layers: int = 2
    q_inner: int = 3072
    q_queries: int = 1
    l_width: int = 5120
    l_layers: int = 40
    l_inner: int = 13_824
    l_vocab: int = 32_000
    lora_rank: int = 8


def config_13b(*, with_beats: bool = True) -> SalmonnConfig:
    """The shipped config of SALMONN-13B, which the descriptions here must agree with."""
    config = SalmonnConfig.from_pretrained(SHAPES / "salmonn-13b.json")
    if not with_beats:
        config.audio_config = None
        config.qformer_config.encoder_hidden_size = 1280
    return config


def small(vocab: int) -> Sizes:
    whisper = {"w_width": 16, "w_layers": 2, "w_inner": 24, "w_frames": 100}
    beats = {"b_width": 16, "b_layers": 2, "b_inner": 24, "b_heads": 2, "b_embed": 12, "b_conv": 4, "b_conv_groups": 2}
    others = {"q_width": 24, "q_inner": 32, "l_width": 16, "l_layers": 2, "l_inner": 24, "lora_rank": 4}
    return Sizes(**whisper, **beats, **others, b_buckets=16, b_classes=5, l_vocab=vocab)


def trained(sizes: Sizes, *, with_beats: bool = True) -> Shapes:
    """What `salmonn_v1.pth` holds under `model`: the parameters that were trained, and the buffers of their modules."""
    s = sizes
    heard = s.w_width + (s.b_width if with_beats else 0)
    shapes: Shapes = {"speech_query_tokens": (1, s.q_queries, s.q_width)}
    shapes |= _norm("ln_speech", s.w_width)
    if with_beats:
        shapes |= _norm("ln_audio", s.b_width)
    shapes |= _linear("speech_llama_proj", s.q_width, s.l_width)
    shapes |= _norm("speech_Qformer.bert.embeddings.LayerNorm", s.q_width)
    for n in range(s.q_layers):
        layer = f"speech_Qformer.bert.encoder.layer.{n}"
        for kind, seen in (("attention", s.q_width), ("crossattention", heard)):
            shapes |= _linear(f"{layer}.{kind}.self.query", s.q_width, s.q_width)
            shapes |= _linear(f"{layer}.{kind}.self.key", seen, s.q_width)
            shapes |= _linear(f"{layer}.{kind}.self.value", seen, s.q_width)
            shapes |= _linear(f"{layer}.{kind}.output.dense", s.q_width, s.q_width)
            shapes |= _norm(f"{layer}.{kind}.output.LayerNorm", s.q_width)
        shapes |= _linear(f"{layer}.intermediate_query.dense", s.q_width, s.q_inner)
        shapes |= _linear(f"{layer}.output_query.dense", s.q_inner, s.q_width)
        shapes |= _norm(f"{layer}.output_query.LayerNorm", s.q_width)
    for n in range(s.l_layers):
        for name in ("q_proj", "v_proj"):
            layer = f"llama_model.base_model.model.model.layers.{n}.self_attn.{name}"
            shapes[f"{layer}.lora_A.default.weight"] = (s.lora_rank, s.l_width)
            shapes[f"{layer}.lora_B.default.weight"] = (s.l_width, s.lora_rank)
    return shapes


def buffers(sizes: Sizes) -> Shapes:
    """What older versions of transformers keep in a state dict beside parameters; nothing learnt."""
    rotary = {
        f"llama_model.base_model.model.model.layers.{n}.self_attn.rotary_emb.inv_freq": (4,)
        for n in range(sizes.l_layers)
    }
    return {"speech_Qformer.bert.embeddings.position_ids": (1, 512), **rotary}


def beats(sizes: Sizes) -> Shapes:
    """What a fine-tuned checkpoint of BEATs holds under `model`."""
    s = sizes
    shapes: Shapes = {"patch_embedding.weight": (s.b_embed, 1, 16, 16)}
    shapes |= _norm("layer_norm", s.b_embed) | _linear("post_extract_proj", s.b_embed, s.b_width)
    shapes["encoder.pos_conv.0.bias"] = (s.b_width,)
    shapes["encoder.pos_conv.0.weight_g"] = (1, 1, s.b_conv)
    shapes["encoder.pos_conv.0.weight_v"] = (s.b_width, s.b_width // s.b_conv_groups, s.b_conv)
    shapes |= _norm("encoder.layer_norm", s.b_width) | _linear("predictor", s.b_width, s.b_classes)
    for n in range(s.b_layers):
        layer = f"encoder.layers.{n}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{name}", s.b_width, s.b_width)
        shapes |= _linear(f"{layer}.self_attn.grep_linear", s.b_width // s.b_heads, 8)
        shapes[f"{layer}.self_attn.grep_a"] = (1, s.b_heads, 1, 1)
        shapes[f"{layer}.self_attn.relative_attention_bias.weight"] = (s.b_buckets, s.b_heads)
        shapes |= _norm(f"{layer}.self_attn_layer_norm", s.b_width) | _norm(f"{layer}.final_layer_norm", s.b_width)
        shapes |= _linear(f"{layer}.fc1", s.b_width, s.b_inner) | _linear(f"{layer}.fc2", s.b_inner, s.b_width)
    return shapes


def beats_cfg(sizes: Sizes) -> dict[str, object]:
    """What that checkpoint holds under `cfg`."""
    s = sizes
    return {
        "encoder_layers": s.b_layers,
        "encoder_embed_dim": s.b_width,
        "encoder_ffn_embed_dim": s.b_inner,
        "encoder_attention_heads": s.b_heads,
        "activation_fn": "gelu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.05,
        "dropout_input": 0.0,
        "layer_norm_first": False,
        "conv_bias": False,
        "conv_pos": s.b_conv,
        "conv_pos_groups": s.b_conv_groups,
        "relative_position_embedding": True,
        "num_buckets": s.b_buckets,
        "max_distance": 800,
        "gru_rel_pos": True,
        "deep_norm": True,
        "input_patch_size": 16,
        "layer_wise_gradient_decay_ratio": 0.6,
        "embed_dim": s.b_embed,
        "finetuned_model": True,
        "predictor_dropout": 0.0,
        "predictor_class": s.b_classes,
    }


def assembled(sizes: Sizes, *, with_beats: bool = True, more_tokens: int = 2) -> Shapes:
    """Every tensor of the model that is put together, under the names here."""
    s = sizes
    return {
        **{f"model.encoder.whisper.{name}": shape for name, shape in _whisper(s)},
        **({f"model.encoder.beats.{name}": shape for name, shape in _beats_here(s)} if with_beats else {}),
        **{f"model.aligner.{name}": shape for name, shape in _aligner_here(s, with_beats)},
        **dict(_llama(s, s.l_vocab + more_tokens)),
    }


def _whisper(s: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from (("conv1.weight", (s.w_width, s.w_mels, 3)), ("conv1.bias", (s.w_width,)))
    yield from (("conv2.weight", (s.w_width, s.w_width, 3)), ("conv2.bias", (s.w_width,)))
    yield "embed_positions.weight", (s.w_frames, s.w_width)
    yield from _norm("layer_norm", s.w_width).items()
    for n in range(s.w_layers):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear = _linear(f"layers.{n}.self_attn.{name}", s.w_width, s.w_width)
            yield from ((key, shape) for key, shape in linear.items() if not key.endswith("k_proj.bias"))
        yield from _norm(f"layers.{n}.self_attn_layer_norm", s.w_width).items()
        yield from _norm(f"layers.{n}.final_layer_norm", s.w_width).items()
        yield from _linear(f"layers.{n}.fc1", s.w_width, s.w_inner).items()
        yield from _linear(f"layers.{n}.fc2", s.w_inner, s.w_width).items()


def _beats_here(s: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """BEATs with one bias for all layers, a plain convolution and no classifier."""
    yield "patch_embedding.weight", (s.b_embed, 1, 16, 16)
    yield from {**_norm("patch_norm", s.b_embed), **_linear("patch_proj", s.b_embed, s.b_width)}.items()
    yield "pos_conv.weight", (s.b_width, s.b_width // s.b_conv_groups, s.b_conv)
    yield "pos_conv.bias", (s.b_width,)
    yield from _norm("layer_norm", s.b_width).items()
    yield "relative_attention_bias.weight", (s.b_buckets, s.b_heads)
    for name, shape in beats(s).items():
        if name.startswith("encoder.layers.") and "relative_attention_bias" not in name:
            yield name.removeprefix("encoder."), shape


def _aligner_here(s: Sizes, with_beats: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, shape in trained(s, with_beats=with_beats).items():
        if name == "speech_query_tokens":
            yield "query_tokens", shape
        elif name.startswith("ln_"):
            yield name, shape
        elif name.startswith("speech_llama_proj."):
            yield name.replace("speech_llama_proj", "projection"), shape
        elif name.startswith("speech_Qformer.bert.embeddings.LayerNorm."):
            yield name.replace("speech_Qformer.bert.embeddings.LayerNorm", "qformer.layernorm"), shape
        elif name.startswith("speech_Qformer.bert.encoder."):
            yield (
                name.replace("speech_Qformer.bert", "qformer").replace("attention.self.", "attention.attention."),
                shape,
            )


def _llama(s: Sizes, vocab: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "lm_head.weight", (vocab, s.l_width)
    yield "model.language_model.embed_tokens.weight", (vocab, s.l_width)
    yield "model.language_model.norm.weight", (s.l_width,)
    for n in range(s.l_layers):
        layer = f"model.language_model.layers.{n}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{layer}.self_attn.{name}.weight", (s.l_width, s.l_width)
        yield f"{layer}.mlp.gate_proj.weight", (s.l_inner, s.l_width)
        yield f"{layer}.mlp.up_proj.weight", (s.l_inner, s.l_width)
        yield f"{layer}.mlp.down_proj.weight", (s.l_width, s.l_inner)
        yield f"{layer}.input_layernorm.weight", (s.l_width,)
        yield f"{layer}.post_attention_layernorm.weight", (s.l_width,)


def _linear(name: str, width_in: int, width_out: int) -> Shapes:
    return {f"{name}.weight": (width_out, width_in), f"{name}.bias": (width_out,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

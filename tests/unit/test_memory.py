"""The memory estimate: sums that can be done by hand, and activations against what autograd keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

from pipeline.config import Recipe, parse_recipe
from pipeline.config.activations import Batch
from pipeline.config.deepspeed import render_deepspeed
from pipeline.config.gpus import GPU_GIB, gpu_gib
from pipeline.config.memory import (
    GIB,
    ModelShape,
    ParameterShape,
    Term,
    activation_terms,
    all_terms,
    checkpoint_bytes,
    communication_terms,
    loading_terms,
    model_state_terms,
    peak,
)
from pipeline.config.zero import ZeroSettings
from pipeline.errors import ConfigError, ModelError
from pipeline.models.family import family_of
from pipeline.models.parts import set_parts
from pipeline.models.shape import find_shape, shape_of
from pipeline.models.teacher import CHUNK_ELEMENTS
from pipeline.models.tiny import write_tiny_model

ALL = {"encoder": "full", "aligner": "full", "llm": "full"}
ADAPTERS = {"encoder": "frozen", "aligner": "full", "llm": "lora"}
RANKS = 8


def recipe_of(parts: dict[str, str] = ALL, deepspeed: str = "full_7b_a100.json", **model: Any) -> Recipe:
    train = model.pop("train", {})
    tree = {
        "arm": "x", "out": "o", "model": {"path": "m", "dtype": "bf16", "parts": parts, **model},
        "data": {"shards": "s"}, "engine": {"deepspeed": deepspeed}, "sketch": {"enabled": False},
        "train": {"max_steps": 4, "global_batch": 16, "micro_batch": 2, **train},
    }  # fmt: skip
    return parse_recipe(tree, source="test")


def zero_of(recipe: Recipe) -> ZeroSettings:
    return ZeroSettings.of(render_deepspeed(recipe, RANKS))


@pytest.fixture(scope="module")
def published() -> ModelShape:
    return shape_of(recipe_of().model, find_shape("qwen2-audio-7b"))


def test_the_published_shape_has_the_published_size(published: ModelShape) -> None:
    assert published.total == 8_397_094_912  # of Qwen2-Audio-7B's safetensors
    assert published.vocabulary == 156_032 and published.window_frames == 1500
    encoder, llm = published.blocks
    assert (encoder.layers, encoder.hidden, encoder.intermediate, encoder.gated) == (32, 1280, 5120, False)
    assert (llm.layers, llm.hidden, llm.intermediate, llm.gated, llm.rms_norm) == (32, 4096, 11_008, True, True)


def test_full_training_in_bf16_takes_eighteen_bytes_a_parameter_and_the_gathered_ones(published: ModelShape) -> None:
    recipe = recipe_of()
    terms = model_state_terms(published, recipe, zero_of(recipe), RANKS)
    always = {term.name: term.bytes for term in terms if term.phase == "always"}
    gathered = always.pop("weights that stay gathered")
    # 2 weights, 4 fp32 weights, 8 moments, 4 gradients; fixed positions of the encoder do not learn.
    fixed = published.total - published.trainable
    assert sum(always.values()) == pytest.approx((18 * published.trainable + 2 * fixed) / RANKS, rel=1e-6)
    assert 0 < gathered < 0.02 * GIB * RANKS
    assert peak(terms) - peak([term for term in terms if term.phase == "always"]) == 4 * min(
        sum(-(-each.numel // RANKS) for each in published.parameters if each.learns), 10**9
    )


def test_adapters_leave_two_bytes_a_parameter_cut_over_the_ranks() -> None:
    recipe = recipe_of(ADAPTERS)
    shape = shape_of(recipe.model, find_shape("qwen2-audio-7b"))
    names = {term.name: term.bytes for term in model_state_terms(shape, recipe, zero_of(recipe), RANKS)}
    assert names["frozen weights"] == pytest.approx(2 * (shape.total - shape.trainable) / RANKS, rel=1e-4)
    assert names["state of adamw"] == pytest.approx(8 * shape.trainable / RANKS, rel=1e-2)
    assert shape.trainable < 0.01 * shape.total


def test_stage_two_keeps_all_weights_and_offload_none_of_the_state(published: ModelShape) -> None:
    two = recipe_of(deepspeed="zero2.json")
    names = {term.name: term.bytes for term in model_state_terms(published, two, zero_of(two), RANKS)}
    assert names["trainable weights"] == 2 * published.trainable
    assert names["fp32 weights"] == pytest.approx(4 * published.trainable / RANKS, rel=1e-6)
    offloaded = recipe_of(deepspeed="zero3_offload.json")
    terms = model_state_terms(published, offloaded, zero_of(offloaded), RANKS)
    assert {term.name for term in terms if term.place == "gpu" and term.bytes} == {"weights that stay gathered"}
    assert peak(terms, "host") == pytest.approx(22 * published.trainable / RANKS, rel=1e-2)


def test_the_peak_is_what_is_always_there_and_the_worst_moment() -> None:
    terms = [
        Term("a", 10, "always", ""), Term("b", 5, "backward", ""), Term("c", 4, "backward", ""),
        Term("d", 7, "step", ""), Term("e", 99, "always", "", "host"),
    ]  # fmt: skip
    assert (peak(terms), peak(terms, "host")) == (19, 99)


LOAD = """
import sys
from pipeline.config.schema import ModelConfig
from pipeline.models.load import load_model

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

before = anonymous()
model = load_model(ModelConfig(path=sys.argv[1], dtype=sys.argv[2], parts=dict.fromkeys(("encoder", "llm"), "full")))
for parameter in model.parameters():
    parameter.sum()
print(anonymous() - before, sum(parameter.nbytes for parameter in model.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is asked of Linux")
def test_stored_weights_are_mapped_and_others_are_cast(tmp_path: Path) -> None:
    write_tiny_model("qwen2_audio", ["a few words"], tmp_path / "model", vocab_size=300, width=640)
    shares = {}
    for dtype in ("fp32", "bf16"):
        words = [sys.executable, "-c", LOAD, str(tmp_path / "model"), dtype]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        own, model = map(int, done.stdout.split())
        shares[dtype] = own / model
    assert shares["fp32"] < 0.3 and shares["bf16"] > 0.8, shares
    for dtype, place in (("fp32", "node"), ("bf16", "host")):
        recipe = recipe_of(path=str(tmp_path / "model"), dtype=dtype)
        shape = shape_of(recipe.model, find_shape(str(tmp_path / "model")))
        assert [term.place for term in loading_terms(shape, recipe)] == [place]


def test_gathered_weights_are_bounded_by_the_setting_and_by_the_model(published: ModelShape) -> None:
    recipe = recipe_of()
    zero = zero_of(recipe)
    (gathered,) = [t for t in communication_terms(published, recipe, zero, RANKS) if t.name == "weights gathered"]
    assert gathered.bytes == 2 * zero.max_live_parameters
    small = ModelShape((ParameterShape("w", 10**6, True),), 10**6, (), 100, 25.0, 0)
    (gathered,) = [t for t in communication_terms(small, recipe, zero, RANKS) if t.name == "weights gathered"]
    assert gathered.bytes <= 2 * 10**6


def test_activation_checkpointing_and_fewer_logits_save_what_they_promise(published: ModelShape) -> None:
    batch = Batch(rows=2, tokens=800, answer_tokens=50, encoder_positions=1500)

    def sum_of(**speed: Any) -> int:
        return sum(term.bytes for term in activation_terms(published, recipe_of(train={"speed": speed}), batch))

    plain, checkpointed = sum_of(), sum_of(activation_checkpointing=True)
    assert checkpointed < plain / 8
    logits = 2 * 2 * 800 * published.vocabulary * 2
    assert sum_of(answer_logits=False) - plain == logits
    everything = all_terms(published, recipe_of(), zero_of(recipe_of()), RANKS, batch, 14, 6)
    assert peak(everything) > peak(activation_terms(published, recipe_of(), batch))


def test_a_loss_in_parts_is_counted_with_the_parts_that_it_has(published: ModelShape) -> None:
    batch = Batch(rows=64, tokens=800, answer_tokens=200, encoder_positions=1500)
    recipe = recipe_of(train={"speed": {"cross_entropy": "chunked"}})
    terms = {term.name: term.bytes for term in activation_terms(published, recipe, batch)}
    assert terms["loss, in parts"] == CHUNK_ELEMENTS * 14


def test_checkpoints_leave_frozen_weights_out(published: ModelShape) -> None:
    one, most = checkpoint_bytes(published, recipe_of(train={"keep_checkpoints": 3}))
    assert one == (2 + 4 + 8) * published.trainable and most == 4 * one
    saved = checkpoint_bytes(published, recipe_of(train={"save_model": True}))[1]
    assert saved == 3 * one + 2 * published.total


SIZES = {"hidden": 64, "layers": 3}


def tiny_config() -> Qwen2AudioConfig:
    audio = {
        "model_type": "qwen2_audio_encoder", "num_mel_bins": 16, "d_model": 32, "encoder_layers": 2,
        "encoder_attention_heads": 2, "encoder_ffn_dim": 96, "max_source_positions": 50,
    }  # fmt: skip
    text = {
        "model_type": "qwen2", "vocab_size": 200, "hidden_size": SIZES["hidden"], "intermediate_size": 192,
        "num_hidden_layers": SIZES["layers"], "num_attention_heads": 4, "num_key_value_heads": 4,
    }  # fmt: skip
    return Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=3)


def kept_by_autograd(decoder: Any, parameters: set[int], tokens: int) -> int:
    """Bytes of the distinct tensors that a forward of the language model keeps for backward, weights left out."""
    kept: dict[int, tuple[torch.Tensor, int]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    inputs = torch.randn(2, tokens, SIZES["hidden"], dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state
    assert output.requires_grad
    return sum(size for _, size in kept.values())


@pytest.mark.parametrize("parts", [ALL, ADAPTERS], ids=["all", "adapters"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_are_what_autograd_keeps(tmp_path: Path, parts: dict[str, str], dropout: float) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config().to_dict()))
    recipe = recipe_of(parts, lora={"r": 8, "dropout": dropout})
    shape = shape_of(recipe.model, find_shape(str(tmp_path)))
    model = Qwen2AudioForConditionalGeneration(tiny_config()).to(torch.bfloat16)
    family = family_of(model.config)
    model = set_parts(model, family, recipe.model).to(torch.bfloat16).train()
    decoder: Any = next(module for name, module in model.named_modules() if name.endswith("model.language_model"))
    tokens = 60
    measured = kept_by_autograd(decoder, {p.untyped_storage().data_ptr() for p in model.parameters()}, tokens)
    llm = shape.blocks[-1]
    expected = 2 * tokens * llm.position_bytes(2) * llm.layers
    assert measured == pytest.approx(expected, rel=0.15)


def test_a_model_that_is_not_there_is_named_with_the_shipped_ones() -> None:
    with pytest.raises(ModelError) as caught:
        find_shape("no/such/qwen2-audio-7")
    assert caught.value.hint == "did you mean 'qwen2-audio-7b'?"


def test_gpus_are_known_by_name() -> None:
    assert gpu_gib("A100-80") == GPU_GIB["a100-80"]
    with pytest.raises(ConfigError) as caught:
        gpu_gib("h100-800")
    assert caught.value.hint == "did you mean 'h100-80'?"

"""Answer-only logits and a loss inside the output layer: the same loss and gradients as the plain way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import CausalLMOutput

from pipeline.config.schema import ModelConfig, PartsConfig
from pipeline.config.training import SpeedConfig, TrainConfig
from pipeline.data.batches import make_micro_batch
from pipeline.errors import ConfigError, ModelError
from pipeline.models import teacher as teacher_module
from pipeline.models.encode import AnswerEncoder
from pipeline.models.family import FAMILIES
from pipeline.models.load import load_model, load_processor
from pipeline.models.loss import answer_loss
from pipeline.models.teacher import TeacherForcing, output_layer
from pipeline.models.tiny import write_tiny_model
from pipeline.types import Example, MicroBatch
from tests.parts import ALL_FULL

CPU = torch.device("cpu")
FULL = ALL_FULL
PLAIN = SpeedConfig(answer_logits=False)
WAYS = {
    "answer_logits": SpeedConfig(),
    "chunked": SpeedConfig(cross_entropy="chunked"),
    "checkpointing": SpeedConfig(activation_checkpointing=True),
}


@pytest.fixture(scope="module")
def batch(random_model: Path) -> MicroBatch:
    """Three examples of two datasets, with answers of differing length."""
    encode = AnswerEncoder(load_processor(str(random_model)))
    rng = np.random.default_rng(0)
    examples = [
        Example(f"e{n}", "ab"[n % 2], rng.normal(size=8000 * (n + 1)).astype("float32"), 16_000, "What is it?", answer)
        for n, answer in enumerate(["a dog", "two cats and a dog", "cats"])
    ]
    return make_micro_batch(examples, encode)


def model_of(folder: Path, parts: PartsConfig) -> Any:
    torch.manual_seed(0)
    model = load_model(ModelConfig(path=str(folder), parts=parts))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("parts", [PartsConfig(), FULL], ids=["lora", "full"])
@pytest.mark.parametrize("way", WAYS)
def test_each_way_gives_the_plain_loss_and_gradients(
    random_model: Path, batch: MicroBatch, way: str, parts: PartsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_module, "CHUNK_ELEMENTS", 3 * 400)  # three tokens at a time
    model = model_of(random_model, parts)
    expected = TeacherForcing(model, CPU, PLAIN).loss(batch)
    expected.mean.backward()
    wanted = gradients(model)
    model.zero_grad()
    if WAYS[way].activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    got = TeacherForcing(model, CPU, WAYS[way]).loss(batch)
    got.mean.backward()
    assert float(got.mean) == pytest.approx(float(expected.mean), rel=1e-6)
    assert got.sums.tolist() == pytest.approx(expected.sums.tolist(), rel=1e-6)
    assert (got.tokens, [(s.dataset, s.tokens, s.examples) for s in got.shares]) == (
        expected.tokens,
        [(s.dataset, s.tokens, s.examples) for s in expected.shares],
    )
    own = gradients(model)
    assert own.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(own[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max())), name


def test_the_plain_way_is_that_of_all_logits_to_the_bit(random_model: Path, batch: MicroBatch) -> None:
    model = model_of(random_model, PartsConfig())
    inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "labels"}
    expected = answer_loss(model(**inputs).logits, batch.inputs["labels"])
    assert torch.equal(TeacherForcing(model, CPU, PLAIN).loss(batch).mean, expected.mean)
    score = TeacherForcing(model, CPU, PLAIN).score(batch)
    assert (score.loss_sum, score.correct, score.exact) == (expected.loss_sum, expected.correct, expected.exact)


def test_the_output_layer_sees_answers_only_and_is_left_as_it_was(random_model: Path, batch: MicroBatch) -> None:
    model, seen = model_of(random_model, PartsConfig()), []
    head = output_layer(model)
    head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[:-1]))
    tokens = int((batch.inputs["labels"] != -100).sum())
    TeacherForcing(model, CPU).loss(batch)
    TeacherForcing(model, CPU, PLAIN).loss(batch)
    assert seen == [(tokens,), batch.inputs["labels"].shape]
    TeacherForcing(model, CPU, WAYS["chunked"]).loss(batch)
    assert "forward" not in vars(head) and len(head._forward_pre_hooks) == 1


def test_smoothing_leaves_the_fused_loss_alone(random_model: Path, batch: MicroBatch) -> None:
    """`auto` may have found a fused loss, which knows no smoothing."""
    model = model_of(random_model, PartsConfig())
    teacher = TeacherForcing(model, CPU, WAYS["chunked"])
    expected = TeacherForcing(model, CPU, PLAIN).loss(batch, 0.1)
    assert float(teacher.loss(batch, 0.1).mean) == pytest.approx(float(expected.mean), rel=1e-6)


class Headless(torch.nn.Module):
    """A model that names no output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(400, 400)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=self.table(input_ids))


def test_a_model_without_a_known_output_layer_makes_all_logits(batch: MicroBatch) -> None:
    model = Headless()
    expected = answer_loss(model(batch.inputs["input_ids"]).logits, batch.inputs["labels"])
    assert torch.equal(TeacherForcing(model, CPU).loss(batch).mean, expected.mean)
    with pytest.raises(ConfigError, match="no plain linear output layer"):
        TeacherForcing(model, CPU, WAYS["chunked"])


def test_a_model_that_scales_its_logits_cannot_have_a_fused_loss(random_model: Path, batch: MicroBatch) -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model_of(random_model, PartsConfig())

        def get_output_embeddings(self) -> Any:
            return output_layer(self.inner)

        def forward(self, **inputs: Any) -> CausalLMOutput:
            return CausalLMOutput(logits=self.inner(**inputs).logits / 8)

    model = Scaled()
    with pytest.raises(ModelError, match="changes its output layer's values"):
        TeacherForcing(model, CPU, WAYS["chunked"]).loss(batch)
    plain, ours = (TeacherForcing(model, CPU, speed).loss(batch).mean for speed in (PLAIN, SpeedConfig()))
    assert float(ours) == pytest.approx(float(plain), rel=1e-6)


def test_liger_is_refused_where_it_is_not(random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="liger-kernel is not installed"):
        TeacherForcing(model_of(random_model, PartsConfig()), CPU, SpeedConfig(cross_entropy="liger"))


def test_switches_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="needs answer_logits"):
        SpeedConfig(answer_logits=False, cross_entropy="chunked")
    with pytest.raises(ValueError, match="no label smoothing"):
        TrainConfig(max_steps=1, label_smoothing=0.1, speed=SpeedConfig(cross_entropy="liger"))


def test_examples_without_an_answer_count_as_right(random_model: Path, batch: MicroBatch) -> None:
    labels = batch.inputs["labels"].clone()
    labels[1] = -100
    score = TeacherForcing(model_of(random_model, FULL).eval(), CPU).score(
        replace(batch, inputs={**batch.inputs, "labels": labels})
    )
    assert (score.examples, score.tokens) == (3, int((labels != -100).sum()))
    assert score.exact >= 1


@pytest.mark.parametrize("family", [each.name for each in FAMILIES if each.tiny])
def test_every_family_has_an_output_layer_that_can_do_with_answers_alone(family: str, tmp_path: Path) -> None:
    write_tiny_model(family, [f"What is {n}? A dog." for n in range(30)], tmp_path, vocab_size=300, width=32)
    encode = AnswerEncoder(load_processor(str(tmp_path)))
    audio = np.random.default_rng(0).normal(size=16_000).astype("float32")
    examples = [Example(f"e{n}", "a", audio, 16_000, "What is it?", "a dog" * (n + 1)) for n in range(2)]
    batch, model = make_micro_batch(examples, encode), load_model(ModelConfig(path=str(tmp_path))).eval()
    with torch.no_grad():
        plain, ours, fused = (
            float(TeacherForcing(model, CPU, speed).loss(batch).mean)
            for speed in (PLAIN, SpeedConfig(), WAYS["chunked"])
        )
    assert output_layer(model) is not None
    assert ours == pytest.approx(plain, rel=1e-6) and fused == pytest.approx(plain, rel=1e-6)

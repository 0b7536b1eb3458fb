"""Examples without audio: a micro-batch of nothing else runs the audio encoder, and that changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.schema import LoraConfig, ModelConfig
from pipeline.models.encode import IGNORE, AnswerEncoder
from pipeline.models.load import load_model, load_processor
from pipeline.models.loss import answer_loss
from pipeline.types import Example

RATE_HZ = 16_000


def example(number: int, audio_s: float | None, answer: str = "red") -> Example:
    rng = np.random.default_rng(number)
    audio = None if audio_s is None else rng.normal(size=int(audio_s * RATE_HZ)).astype(np.float32) * 0.1
    return Example(f"e{number}", "colour", audio, RATE_HZ, "Which colour has this sound?" + " Say it." * number, answer)


@pytest.fixture(scope="module")
def encode(tiny_model: Path) -> AnswerEncoder:
    return AnswerEncoder(load_processor(str(tiny_model)))


@pytest.fixture
def model(tiny_model: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    return load_model(ModelConfig(path=str(tiny_model), lora=LoraConfig(r=4)))


def loss_and_gradients(model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    inputs = dict(inputs)
    labels = inputs.pop("labels")
    loss = answer_loss(model(**inputs).logits, labels)
    loss.mean.backward()
    return loss.loss_sum, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def without_dummy(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The text alone, without the dummy clip and its tokens."""
    longest = int(batch["attention_mask"].sum(1).max())
    return {name: batch[name][:, :longest] for name in ("input_ids", "attention_mask", "labels")}


def test_the_dummy_clip_changes_neither_loss_nor_gradient(encode: AnswerEncoder, model: torch.nn.Module) -> None:
    batch = encode([example(0, None), example(1, None, "two dogs bark")])
    assert len(batch["input_features"]) == 1
    loss, gradients = loss_and_gradients(model, batch)
    expected_loss, expected = loss_and_gradients(model, without_dummy(batch))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-7)
    # The encoder ran: what stands behind it has a gradient, which is zero.
    behind = [name for name in gradients if "multi_modal_projector" in name]
    assert behind and not any(name in expected for name in behind)
    assert all(not gradients[name].any() for name in behind)


def test_what_the_dummy_clip_holds_does_not_reach_the_answers(encode: AnswerEncoder, model: torch.nn.Module) -> None:
    batch = encode([example(0, None), example(1, None)])
    loud = {**batch, "input_features": torch.randn_like(batch["input_features"])}
    shown = batch["attention_mask"].bool()
    with torch.no_grad():
        one, other = (
            model(**{name: value for name, value in each.items() if name != "labels"}).logits for each in (batch, loud)
        )
    assert torch.equal(one[shown], other[shown])
    assert not torch.equal(one[~shown], other[~shown])


def test_text_among_audio_needs_no_dummy(encode: AnswerEncoder) -> None:
    batch = encode([example(0, None), example(1, 0.5), example(2, None)])
    assert len(batch["input_features"]) == 1
    alone = encode([example(1, 0.5)])
    shown = batch["attention_mask"][1].bool()
    assert batch["input_ids"][1][shown].tolist() == alone["input_ids"][0].tolist()
    assert batch["labels"].shape == batch["input_ids"].shape
    text = without_dummy(encode([example(0, None)]))
    assert batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist() == text["input_ids"][0].tolist()


def test_prompts_have_the_dummy_in_their_padding_on_the_left(encode: AnswerEncoder) -> None:
    batch = encode.prompts([example(0, None), example(3, None)])
    teacher = encode([example(0, None), example(3, None)])
    for row in range(2):
        mask = batch["attention_mask"][row].bool()
        assert mask.int().diff().min() >= 0  # what is attended stands on the right
        prompt = teacher["input_ids"][row][(teacher["labels"][row] == IGNORE) & teacher["attention_mask"][row].bool()]
        assert batch["input_ids"][row][mask].tolist() == prompt.tolist()
    assert len(batch["input_features"]) == 1

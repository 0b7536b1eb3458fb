"""A model without its encoder, given the encoder's outputs, against the whole model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.schema import ModelConfig
from pipeline.errors import ModelError
from pipeline.models.encode import AnswerEncoder
from pipeline.models.frozen_encoder import OutputsOf, encoder_digest, use_outputs
from pipeline.models.load import load_model, load_processor, trainable_parameters
from pipeline.types import Example

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encode(random_model: Path) -> AnswerEncoder:
    return AnswerEncoder(load_processor(str(random_model)), fast=True)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    lengths = (16_000, 700, 48_123, 180_000)  # 700 samples are one audio token
    clips = [0.1 * rng.normal(size=n).astype(np.float32) for n in lengths]
    return [Example(f"e{k}", "d", clip, 16_000, f"What is {k}?", f"dog {k}") for k, clip in enumerate(clips)]


@pytest.fixture(scope="module")
def cached(random_model: Path, encode: AnswerEncoder, examples: list[Example]) -> list[Example]:
    """The examples with outputs in the place of their audio; computed in other batches than they are used in."""
    outputs = OutputsOf(ModelConfig(path=str(random_model)), encode, CPU)
    values = [each for pair in (examples[:2], examples[2:]) for each in outputs(pair)]
    return [
        Example(e.id, e.dataset, each, 16_000, e.question, e.answer) for e, each in zip(examples, values, strict=True)
    ]


def lora(random_model: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    return load_model(ModelConfig(path=str(random_model))).train()


def test_logits_and_gradients_are_those_of_the_whole_model(
    random_model: Path, encode: AnswerEncoder, examples: list[Example], cached: list[Example]
) -> None:
    whole, without = lora(random_model), lora(random_model)
    use_outputs(without)
    for model, batch in ((whole, examples), (without, cached)):
        inputs = encode(batch)
        inputs.pop("labels")
        model.logits = model(**inputs).logits
        model.logits.square().mean().backward()
    assert (whole.logits - without.logits).abs().max() <= 1e-5
    wanted, got = trainable_parameters(whole), trainable_parameters(without)
    assert list(wanted) == list(got)
    for name, parameter in wanted.items():
        assert torch.allclose(parameter.grad, got[name].grad, atol=1e-5), name


def test_one_clip_of_one_token_alone(
    random_model: Path, encode: AnswerEncoder, examples: list[Example], cached: list[Example]
) -> None:
    assert cached[1].audio.values.shape[1] == 1
    whole, without = lora(random_model), lora(random_model)
    use_outputs(without)
    got = []
    for model, batch in ((whole, examples), (without, cached)):
        inputs = encode(batch[1:2])
        inputs.pop("labels")
        got.append(model(**inputs).logits)
    assert (got[0] - got[1]).abs().max() <= 1e-5


def test_text_alone_reaches_what_is_behind_the_encoder(random_model: Path) -> None:
    encode = AnswerEncoder(load_processor(str(random_model)), fast=True)
    text = [Example(f"t{k}", "d", None, 16_000, f"What is {k}?", "a dog") for k in range(2)]
    whole, without = lora(random_model), lora(random_model)
    logits = []
    for model in (whole, without):
        if model is without:
            encode.outputs_width = use_outputs(model)
        inputs = encode(text)
        real = inputs.pop("labels") != -100
        logits.append(model(**inputs).logits[real])
        logits[-1].square().mean().backward()
        assert all(p.grad is not None for name, p in trainable_parameters(model).items() if "projector" in name)
    assert (logits[0] - logits[1]).abs().max() <= 1e-5


def test_answers_are_those_of_the_whole_model(
    random_model: Path, encode: AnswerEncoder, examples: list[Example], cached: list[Example]
) -> None:
    whole, without = lora(random_model).eval(), lora(random_model).eval()
    use_outputs(without)
    settings = {"do_sample": False, "max_new_tokens": 5, "use_cache": True}
    answers = [
        model.get_base_model().generate(**encode.prompts(batch), **settings)
        for model, batch in ((whole, examples), (without, cached))
    ]
    assert torch.equal(answers[0], answers[1])


def test_the_encoders_weights_are_gone(random_model: Path) -> None:
    model = lora(random_model)
    assert any("audio_tower" in name for name, _ in model.named_parameters())
    use_outputs(model)
    assert not any("audio_tower" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"parts": {"encoder": "full"}}, "trained parameters"),
        ({"parts": {"encoder": "lora"}}, "trained parameters"),
        ({"dropout": 0.1}, "dropout"),
    ],
)
def test_an_encoder_whose_outputs_change_is_refused(random_model: Path, config: dict, text: str) -> None:
    model = load_model(ModelConfig(path=str(random_model), **config))
    with pytest.raises(ModelError, match="change in training") as caught:
        use_outputs(model)
    assert text in str(caught.value)


def test_a_full_model_with_a_frozen_encoder_is_taken(random_model: Path) -> None:
    use_outputs(load_model(ModelConfig(path=str(random_model), parts={"aligner": "full", "llm": "full"})))


def test_the_digest_is_of_the_encoders_weights_alone(random_model: Path, encode: AnswerEncoder) -> None:
    model = lora(random_model)
    digest = encoder_digest(model)
    assert OutputsOf(ModelConfig(path=str(random_model)), encode, CPU).digest == digest
    assert encoder_digest(load_model(ModelConfig(path=str(random_model), dropout=0.2))) == digest
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "language_model" in name).add_(1.0)
        assert encoder_digest(model) == digest
        next(p for name, p in model.named_parameters() if "audio_tower" in name).flatten()[0] += 1e-3
    assert encoder_digest(model) != digest


def test_a_model_of_another_build_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be cached"):
        use_outputs(torch.nn.Linear(2, 2))

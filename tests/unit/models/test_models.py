"""Tiny models are ordinary `from_pretrained` folders; encoding and loss against slow, obvious versions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

from pipeline.config.schema import LoraConfig, ModelConfig
from pipeline.errors import ModelError
from pipeline.models.encode import IGNORE, AnswerEncoder
from pipeline.models.exported import base_digest
from pipeline.models.load import load_base_model, load_model, load_processor, trainable_parameters
from pipeline.models.loss import answer_loss
from pipeline.models.tiny import describe, write_tiny_model
from pipeline.types import Example
from tests.parts import ALL_FULL

TEXTS = [f"What do you hear? {n} dogs bark while rain falls." for n in range(50)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "tiny"
    write_tiny_model("qwen2_audio", TEXTS, out, vocab_size=400, width=32)
    return out


def example(number: int, duration_s: float, question: str = "What is it?", answer: str = "a dog") -> Example:
    audio = np.random.default_rng(number).normal(size=int(16_000 * duration_s)).astype(np.float32) * 0.1
    return Example(f"e{number}", "d", audio, 16_000, question, answer)


def test_the_folder_loads_with_plain_transformers(folder: Path) -> None:
    model = AutoModelForMultimodalLM.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert describe(folder) == {
        "model_type": "qwen2_audio",
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    text = "Ein Hund bellt — 犬が吠える!"
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


def test_the_same_seed_writes_the_same_weights(folder: Path, tmp_path: Path) -> None:
    write_tiny_model("qwen2_audio", TEXTS, tmp_path / "again", vocab_size=400, width=32)
    write_tiny_model("qwen2_audio", TEXTS, tmp_path / "other", vocab_size=400, width=32, seed=1)
    assert base_digest(str(tmp_path / "again")) == base_digest(str(folder)) != base_digest(str(tmp_path / "other"))


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="did you mean `qwen2_audio`"):
        write_tiny_model("qwen2audio", TEXTS, tmp_path / "x")


def test_labels_cover_the_answer_and_its_end_only(folder: Path) -> None:
    processor = load_processor(str(folder))
    batch = AnswerEncoder(processor)([example(0, 1.0), example(1, 2.5, answer="two dogs bark")])
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for row, answer in zip(batch["labels"], ["a dog", "two dogs bark"], strict=True):
        wanted = row[row != IGNORE].tolist()
        assert wanted[-1] == end and processor.tokenizer.decode(wanted[:-1]) == answer
    assert torch.equal(batch["input_ids"][batch["labels"] != IGNORE], batch["labels"][batch["labels"] != IGNORE])
    audio_id = processor.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    frames = batch["feature_attention_mask"].sum(1)
    assert (batch["input_ids"] == audio_id).sum(1).tolist() == [((int(n) - 1) // 2 + 1 - 2) // 2 + 1 for n in frames]


def test_a_batch_scores_like_its_examples_alone(folder: Path) -> None:
    encode = AnswerEncoder(load_processor(str(folder)))
    model = load_base_model(ModelConfig(path=str(folder))).eval()
    examples = [example(0, 1.0), example(1, 4.0, answer="two dogs bark loudly"), example(2, 0.5, answer="x")]

    def losses(batch: list[Example]):
        inputs = encode(batch)
        labels = inputs.pop("labels")
        return answer_loss(model(**inputs).logits, labels)

    with torch.no_grad():
        together, alone = losses(examples), [losses([one]) for one in examples]
    assert together.tokens == sum(one.tokens for one in alone)
    assert together.loss_sum == pytest.approx(sum(one.loss_sum for one in alone), rel=1e-4)


def test_loss_and_accuracy_equal_a_loop_over_tokens() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 6, 5), torch.randint(0, 5, (3, 6))
    labels[0, :3] = IGNORE
    labels[1, 4:] = IGNORE
    logits[2, torch.arange(5), labels[2, 1:]] += 50  # the third example is right throughout
    loss_sum, tokens, correct, exact = 0.0, 0, 0, 0
    for row in range(3):
        right = True
        for t in range(1, 6):
            if labels[row, t] == IGNORE:
                continue
            loss_sum -= float(torch.log_softmax(logits[row, t - 1], -1)[labels[row, t]])
            tokens += 1
            hit = int(logits[row, t - 1].argmax()) == int(labels[row, t])
            correct, right = correct + hit, right and hit
        exact += right
    got = answer_loss(logits, labels)
    assert (got.tokens, got.correct, got.exact, got.examples) == (tokens, correct, exact, 3)
    assert got.loss_sum == pytest.approx(loss_sum, rel=1e-5)
    assert float(got.mean) == pytest.approx(loss_sum / tokens, rel=1e-5)


def test_lora_trains_adapters_and_the_projector_only(folder: Path) -> None:
    model = load_model(ModelConfig(path=str(folder), lora=LoraConfig(r=2)))
    names = list(trainable_parameters(model))
    assert names and all("lora_" in name or "multi_modal_projector" in name for name in names)
    assert any("multi_modal_projector" in name for name in names)
    assert not any("audio_tower" in name for name in names)


def test_full_training_leaves_fixed_positions_alone(folder: Path) -> None:
    names = trainable_parameters(load_model(ModelConfig(path=str(folder), parts=ALL_FULL)))
    assert not any("embed_positions" in name for name in names)
    assert any("audio_tower.conv2" in name for name in names)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"path": "no/such/folder"}, "cannot load"),
        ({"lora": LoraConfig(targets=("query",))}, "lora.targets"),
        ({"parts": {"aligner": "lora"}}, "part `aligner`"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_in_words(folder: Path, config: dict, text: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(ModelConfig(**{"path": str(folder), **config}))
    assert text in str(caught.value)


def test_another_sample_rate_is_refused(folder: Path) -> None:
    bad = Example("e", "d", np.zeros(8000, np.float32), 8_000, "q", "a")
    with pytest.raises(ModelError, match="sample rate"):
        AnswerEncoder(load_processor(str(folder)))([bad])

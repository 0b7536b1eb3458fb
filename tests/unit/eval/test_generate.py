"""Greedy answers in left-padded batches are those of each example alone, whatever the model was published with."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from pipeline.config.schema import LoraConfig, ModelConfig
from pipeline.data.batches import make_micro_batch
from pipeline.dist import SingleProcess
from pipeline.eval.generate import generate
from pipeline.models.encode import AnswerEncoder
from pipeline.models.load import load_model, load_processor, without_wrapper
from pipeline.models.tiny import write_tiny_model
from pipeline.types import Example

TEXTS = [f"What do you hear? {n} dogs bark while rain falls." for n in range(50)]
CPU = torch.device("cpu")
LIMIT = 12


class TokenEncoder(AnswerEncoder):
    """Shows the tokens themselves instead of their text."""

    def texts(self, answers: torch.Tensor) -> list[str]:
        return [" ".join(map(str, row.tolist())) for row in answers]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "tiny"
    write_tiny_model("qwen2_audio", TEXTS, out, vocab_size=400, width=32)
    return out


@pytest.fixture
def model(folder: Path) -> torch.nn.Module:
    """With adapters that do something, and every seventh token as an end, so that answers differ in length."""
    torch.manual_seed(0)
    model = load_model(ModelConfig(path=str(folder), lora=LoraConfig(r=2)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    without_wrapper(model).generation_config.eos_token_id = list(range(6, 400, 7))
    return model


def example(number: int) -> Example:
    audio = np.random.default_rng(number).normal(size=8_000 + 7_000 * number).astype(np.float32) * 0.1
    return Example(f"e{number}", "d", audio, 16_000, "What is it? " * (1 + number % 3), "a dog")


EXAMPLES = [example(number) for number in range(6)]


def answered(
    model: torch.nn.Module, encoder: AnswerEncoder, batches: list[list[Example]], limit: int = LIMIT
) -> dict[str, str]:
    encoded = [make_micro_batch(batch, encoder.prompts) for batch in batches]
    return {key[1]: text for key, text in generate(model, encoded, encoder, limit, SingleProcess(), CPU).items()}


def tokens_of(text: str, encoder: AnswerEncoder) -> list[int]:
    """An answer without what fills the batch up after its end."""
    tokens = [int(word) for word in text.split()]
    while tokens and tokens[-1] == encoder.pad_token_id:
        tokens.pop()
    return tokens


def test_a_batch_is_answered_like_its_examples_alone(model: torch.nn.Module, folder: Path) -> None:
    encoder = TokenEncoder(load_processor(str(folder)))
    alone = answered(model, encoder, [[each] for each in EXAMPLES])
    tokens = {name: tokens_of(text, encoder) for name, text in alone.items()}
    assert len({len(each) for each in tokens.values()}) > 3
    for batches in ([EXAMPLES], [EXAMPLES[:4], EXAMPLES[4:]], [EXAMPLES[::-1]]):
        together = answered(model, encoder, batches)
        assert {name: tokens_of(text, encoder) for name, text in together.items()} == tokens


def test_every_token_is_the_likeliest_after_those_before_it(model: torch.nn.Module, folder: Path) -> None:
    encoder = TokenEncoder(load_processor(str(folder)))
    answers = answered(model, encoder, [EXAMPLES])
    ends = set(without_wrapper(model).generation_config.eos_token_id)
    model.eval()
    for each in EXAMPLES:
        answer = tokens_of(answers[each.id], encoder)
        inputs = encoder.prompts([each])
        whole = torch.cat([inputs.pop("input_ids"), torch.tensor([answer])], dim=1)
        mask = torch.ones_like(inputs.pop("attention_mask")[:, :1].expand_as(whole))
        with torch.no_grad():
            logits = model(input_ids=whole, attention_mask=mask, **inputs).logits
        assert logits[0, -len(answer) - 1 : -1].argmax(-1).tolist() == answer
        assert not ends & set(answer[:-1]) and (answer[-1] in ends or len(answer) == LIMIT)


def test_what_a_model_was_published_with_takes_no_part(model: torch.nn.Module, folder: Path) -> None:
    encoder = AnswerEncoder(load_processor(str(folder)))
    own = without_wrapper(model)
    plain = answered(model, encoder, [EXAMPLES])
    ends = own.generation_config.eos_token_id
    own.generation_config = GenerationConfig(
        do_sample=True, temperature=9.0, top_k=300, repetition_penalty=5.0, no_repeat_ngram_size=1, num_beams=3,
        min_new_tokens=9, eos_token_id=ends, cache_implementation="static",
    )  # fmt: skip
    before = copy.deepcopy(own.generation_config).to_dict()
    assert answered(model, encoder, [EXAMPLES]) == plain
    assert own.generation_config.to_dict() == before


def test_the_limit_holds_and_the_model_trains_on_as_before(model: torch.nn.Module, folder: Path) -> None:
    encoder = TokenEncoder(load_processor(str(folder)))
    model.train()
    one = answered(model, encoder, [EXAMPLES], limit=1)
    more = answered(model, encoder, [EXAMPLES])
    assert {name: text.split()[:1] for name, text in more.items()} == {name: text.split() for name, text in one.items()}
    assert model.training and not without_wrapper(model).config.use_cache


def test_fillers_are_run_and_left_out(model: torch.nn.Module, folder: Path) -> None:
    encoder = AnswerEncoder(load_processor(str(folder)))
    batches = [
        make_micro_batch(EXAMPLES[:2], encoder.prompts),
        make_micro_batch(EXAMPLES[2:3], encoder.prompts, counted=False),
    ]
    answers = generate(model, batches, encoder, LIMIT, SingleProcess(), CPU)
    assert list(answers) == [("d", "e0"), ("d", "e1")]


def test_texts_have_no_special_tokens_and_no_space_around(folder: Path) -> None:
    processor = load_processor(str(folder))
    encoder = AnswerEncoder(processor)
    tokens = processor.tokenizer("  a dog  <|im_end|><|endoftext|>", return_tensors="pt")["input_ids"]
    assert encoder.texts(tokens) == ["a dog"]


def test_prompts_are_those_of_teacher_forcing_padded_on_the_left(folder: Path) -> None:
    encoder = AnswerEncoder(load_processor(str(folder)))
    forced, asked = encoder(EXAMPLES), encoder.prompts(EXAMPLES)
    assert set(forced) - set(asked) == {"labels"}
    for row, each in enumerate(EXAMPLES):
        mask = asked["attention_mask"][row].bool()
        prompt = asked["input_ids"][row][mask]
        assert mask[-len(prompt) :].all() and not mask[: -len(prompt)].any()
        answer = forced["labels"][row] != -100
        start = int(answer.nonzero()[0])
        assert torch.equal(forced["input_ids"][row][:start], prompt)
        alone = encoder.prompts([each])
        assert alone["attention_mask"].all() and torch.equal(alone["input_ids"][0], prompt)
    for name in set(asked) - {"input_ids", "attention_mask"}:
        assert torch.equal(asked[name], forced[name])

"""SALMONN through the house's own doors: loading, prompts, teacher forcing, generation, text alone, saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor

from pipeline.config.schema import LoraConfig, ModelConfig
from pipeline.models.encode import IGNORE, AnswerEncoder
from pipeline.models.load import load_model, load_processor
from pipeline.models.loss import answer_loss
from pipeline.models.salmonn import SalmonnForConditionalGeneration, SalmonnProcessor
from pipeline.types import Example

RATE_HZ = 16_000
TOKENS = 31  # of any clip: 250 frames of Whisper in windows of 8


def example(number: int, audio_s: float | None, answer: str = "red") -> Example:
    rng = np.random.default_rng(number)
    audio = None if audio_s is None else (0.1 * rng.normal(size=int(audio_s * RATE_HZ))).astype(np.float32)
    return Example(f"e{number}", "colour", audio, RATE_HZ, f"Which colour is number {number}?", answer)


def recipe_model(path: Path, **changes: Any) -> ModelConfig:
    return ModelConfig(path=str(path), lora=LoraConfig(r=4, dropout=0.0), **changes)


@pytest.fixture(params=["with BEATs", "without"])
def folder(request: pytest.FixtureRequest, salmonn: Path, salmonn_without_beats: Path) -> Path:
    return salmonn if request.param == "with BEATs" else salmonn_without_beats


def logits_of(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits


def test_auto_classes_know_it(folder: Path) -> None:
    model = AutoModelForMultimodalLM.from_pretrained(folder)
    assert type(model) is SalmonnForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(folder)) is SalmonnProcessor
    config = AutoConfig.from_pretrained(folder)
    assert config.audio_length == TOKENS
    assert (config.audio_config is None) == (model.model.encoder.beats is None)


def test_prompt_is_the_published_one_in_pieces(salmonn: Path) -> None:
    processor = load_processor(str(salmonn))
    content = [{"type": "audio", "audio_url": "x"}, {"type": "text", "text": "What is it?"}]
    conversation = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    assert prompt == "USER: <Speech><SpeechHere></Speech> What is it?\nASSISTANT:"
    spoken = [{"role": "assistant", "content": "A cat."}, {"role": "user", "content": "Sure?"}]
    longer = processor.apply_chat_template([*conversation, *spoken], add_generation_prompt=True, tokenize=False)
    assert longer == f"{prompt} A cat.</s>USER: Sure?\nASSISTANT:"

    tokenizer = processor.tokenizer
    encoded = processor(text=prompt, audio=example(0, 1.0).audio, sampling_rate=RATE_HZ)
    before = tokenizer("USER: <Speech>", add_special_tokens=False)["input_ids"]
    behind = tokenizer("</Speech> What is it?\nASSISTANT:", add_special_tokens=False)["input_ids"]
    audio = tokenizer.convert_tokens_to_ids("<SpeechHere>")
    assert encoded["input_ids"][0].tolist() == [tokenizer.bos_token_id, *before, *[audio] * TOKENS, *behind]
    with pytest.raises(ValueError, match="0 clips for 1 times"):
        processor(text=prompt)


def test_clips_are_heard_from_one_second_to_the_window(salmonn: Path) -> None:
    processor = load_processor(str(salmonn))
    prompt = "USER: <Speech><SpeechHere></Speech> What?\nASSISTANT:"
    clips = [example(0, 0.3).audio, example(1, 12.0).audio]
    encoded = processor(text=[prompt] * 2, audio=clips, sampling_rate=RATE_HZ)
    assert encoded["input_features"].shape == (2, 64, 500)
    assert encoded["input_values"].shape == (2, 998, 64)  # of 10 s
    assert encoded["input_values_mask"].sum(1).tolist() == [98, 998]  # the short one is one second with silence
    second = np.concatenate([clips[0], np.zeros(RATE_HZ - len(clips[0]), dtype=np.float32)])
    alone = processor(text=prompt, audio=second, sampling_rate=RATE_HZ)
    for name in ("input_features", "input_values"):
        torch.testing.assert_close(encoded[name][:1, : alone[name].shape[1]], alone[name])
    with pytest.raises(ValueError, match="sampling rate"):
        processor(text=prompt, audio=second, sampling_rate=8000)


def test_an_example_s_logits_do_not_depend_on_the_others(folder: Path) -> None:
    encode, model = AnswerEncoder(load_processor(str(folder))), load_model(recipe_model(folder))
    examples = [example(0, 0.5), example(1, 4.0, "two dogs"), example(2, None), example(3, 2.0)]
    together = encode(examples)
    logits = logits_of(model, together)
    assert (together["input_ids"] == 4).sum(1).tolist() == [TOKENS, TOKENS, 0, TOKENS]
    for row, each in enumerate(examples):
        alone = encode([each])
        n = int(alone["attention_mask"].sum())
        torch.testing.assert_close(logits[row, :n], logits_of(model, alone)[0, :n], rtol=1e-4, atol=1e-4)


def test_what_is_heard_reaches_the_answer(folder: Path) -> None:
    encode, model = AnswerEncoder(load_processor(str(folder))), load_model(recipe_model(folder))
    batch = encode([example(0, 2.0)])
    logits = logits_of(model, batch)
    for name in {"input_features", "input_values"} & batch.keys():
        changed = {**batch, name: batch[name] + 0.3}
        assert (logits_of(model, changed) - logits).abs().max() > 1e-4, name


def test_teacher_forcing_learns_what_the_recipe_names(folder: Path) -> None:
    config = recipe_model(folder, parts={"encoder": "frozen", "aligner": "full", "llm": "lora"})
    torch.manual_seed(0)
    encode, model = AnswerEncoder(load_processor(str(folder))), load_model(config)
    batch = encode([example(0, 0.5), example(1, 1.5, "green")])
    labels = batch.pop("labels")
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in wanted if "lora_" not in name} == {
        name for name, _ in model.named_parameters() if ".aligner." in name
    }
    assert all("language_model" in name for name in wanted if "lora_" in name)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(12):
        loss = answer_loss(model(**batch).logits, labels).mean
        optimizer.zero_grad()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    # One query is alone in its window: nothing that it asks of itself can matter.
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if name in wanted}
    without = {name for name, grad in grads.items() if grad is None or not grad.any()}
    alone = {n for n in wanted if ".attention.attention.query." in n or ".attention.attention.key." in n}
    assert without == {name for name in alone if "crossattention" not in name}
    assert losses[-1] < losses[0] - 0.3


def test_its_own_loss_is_the_house_s(salmonn: Path) -> None:
    encode, model = AnswerEncoder(load_processor(str(salmonn))), load_model(recipe_model(salmonn)).eval()
    batch = encode([example(0, 0.5), example(1, 1.5, "green")])
    with torch.no_grad():
        outputs = model(**batch)
        expected = answer_loss(outputs.logits, batch["labels"]).mean
        kept = model(**{k: v for k, v in batch.items() if k != "labels"}, logits_to_keep=2)
    torch.testing.assert_close(outputs.loss, expected)
    torch.testing.assert_close(kept.logits, outputs.logits[:, -2:])


def test_text_alone_runs_the_encoders_and_changes_nothing(folder: Path) -> None:
    encode, model = AnswerEncoder(load_processor(str(folder))), load_model(recipe_model(folder))
    batch = encode([example(0, None), example(1, None, "two dogs bark")])
    assert len(batch["input_features"]) == 1
    logits = logits_of(model, batch)
    longest = int(batch["attention_mask"].sum(1).max())
    text = {name: batch[name][:, :longest] for name in ("input_ids", "attention_mask", "labels")}
    expected = logits_of(model, text)
    said = text["labels"] != IGNORE
    torch.testing.assert_close(logits[:, :longest][said], expected[said], rtol=1e-5, atol=1e-5)


def test_generation_is_teacher_forcing_step_by_step(folder: Path) -> None:
    encode = AnswerEncoder(load_processor(str(folder)))
    model: Any = load_model(recipe_model(folder)).eval()
    prompts = encode.prompts([example(0, 0.5), example(1, 3.0), example(2, None)])
    answers = model.generate(
        **prompts, max_new_tokens=4, min_new_tokens=4, do_sample=False, use_cache=True, eos_token_id=2, pad_token_id=3
    )
    new = answers[:, prompts["input_ids"].shape[1] :]
    rows = dict(prompts)
    for step in range(4):
        logits = logits_of(model, rows)[:, -1]
        logits[:, 2] = -torch.inf
        assert logits.argmax(-1).tolist() == new[:, step].tolist()
        rows["input_ids"] = torch.cat([rows["input_ids"], new[:, step : step + 1]], dim=1)
        rows["attention_mask"] = torch.cat([rows["attention_mask"], torch.ones(3, 1, dtype=torch.long)], dim=1)


def test_saved_and_loaded_it_is_the_same(folder: Path, tmp_path: Path) -> None:
    encode = AnswerEncoder(load_processor(str(folder)))
    model: Any = load_model(recipe_model(folder, parts={"encoder": "full", "aligner": "full", "llm": "full"}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "again")
    load_processor(str(folder)).save_pretrained(tmp_path / "again")
    batch = encode([example(0, 0.5), example(1, 2.0)])
    reloaded = load_model(recipe_model(tmp_path / "again"))
    torch.testing.assert_close(logits_of(reloaded, batch), logits_of(model, batch), rtol=0, atol=0)
    again = AnswerEncoder(load_processor(str(tmp_path / "again")))([example(0, 0.5), example(1, 2.0)])
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["model_type"] == "salmonn"


def test_it_runs_in_bf16(salmonn: Path) -> None:
    encode = AnswerEncoder(load_processor(str(salmonn)))
    batch = encode([example(0, 0.5), example(1, 2.0)])
    model = load_model(recipe_model(salmonn, dtype="bf16"))
    logits = logits_of(model, batch)
    assert logits.dtype == torch.bfloat16
    full = logits_of(load_model(recipe_model(salmonn)), batch)
    assert (logits.float() - full).abs().mean() < 0.05 * full.abs().mean()


def test_beats_without_its_input_is_refused(salmonn: Path) -> None:
    encode, model = AnswerEncoder(load_processor(str(salmonn))), load_model(recipe_model(salmonn))
    batch = {k: v for k, v in encode([example(0, 0.5)]).items() if not k.startswith("input_values")}
    with pytest.raises(ValueError, match="input_values"):
        logits_of(model, batch)
    whole = encode([example(0, 0.5)])
    whole["input_ids"] = whole["input_ids"][:, 10:]
    whole["attention_mask"] = whole["attention_mask"][:, 10:]
    with pytest.raises(ValueError, match="audio tokens in the prompts for 1 clips"):
        logits_of(model, whole)

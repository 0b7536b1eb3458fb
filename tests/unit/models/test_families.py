"""Every family's tiny model through the one interface: prompts, loss, parts that learn, padding, cached outputs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForMultimodalLM, GlmAsrConfig, PreTrainedModel

from pipeline.config.schema import LoraConfig, ModelConfig, PartsConfig
from pipeline.errors import ModelError
from pipeline.models.embed import ClipEmbedder
from pipeline.models.encode import IGNORE, AnswerEncoder
from pipeline.models.family import Family, family_named, family_of, module_at
from pipeline.models.frozen_encoder import OutputsOf, use_outputs
from pipeline.models.granite import GraniteSpeechFeatureExtractor
from pipeline.models.load import (
    load_base_model,
    load_config,
    load_model,
    load_processor,
    trainable_parameters,
    without_wrapper,
)
from pipeline.models.loss import answer_loss
from pipeline.models.tiny import describe, write_tiny_model
from pipeline.types import Example
from tests.parts import ALL_FULL

NAMES = ("qwen2_audio", "qwen2_5_omni", "audio_flamingo_3", "voxtral", "granite_speech", "salmonn")
MASKED = ("qwen2_audio", "qwen2_5_omni", "audio_flamingo_3")
WHISPER = (*MASKED, "voxtral")
TEXTS = [f"What do you hear? {n} dogs bark while rain falls." for n in range(50)]
RATE_HZ = 16_000
CPU = torch.device("cpu")
LORA = LoraConfig(r=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    for name in NAMES:
        write_tiny_model(name, TEXTS, root / name, vocab_size=340, width=32)
    return {name: root / name for name in NAMES}


def clip(number: int, seconds: float | None, answer: str = "a dog") -> Example:
    rng = np.random.default_rng(number)
    audio = None if seconds is None else 0.1 * rng.normal(size=int(seconds * RATE_HZ)).astype(np.float32)
    return Example(f"e{number}", "d", audio, RATE_HZ, f"What is {number}?", answer)


def encoder(folder: Path, **options: Any) -> AnswerEncoder:
    return AnswerEncoder(load_processor(str(folder)), **options)


def model_of(folder: Path, **config: Any) -> Any:
    torch.manual_seed(0)
    return load_model(ModelConfig(path=str(folder), **{"lora": LORA, **config})).eval()


def logits_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """[shown tokens, V]: nothing of the padding."""
    logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    return logits[batch["attention_mask"].bool()]


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_holds_a_model_of_the_family(name: str, folders: dict[str, Path]) -> None:
    model = load_base_model(ModelConfig(path=str(folders[name])))
    family = family_of(model.config)
    assert family is family_named(name)
    own = {key: parameter for key, parameter in model.named_parameters()}
    assert describe(folders[name])["parameters"] >= sum(parameter.numel() for parameter in own.values())
    parts = {family.part_of(key) for key in own}
    assert parts - {None} == {"encoder", "aligner", "llm"}
    assert all("visual" in key for key in own if family.part_of(key) is None)
    assert family.part_of(f"base_model.model.{family.head}.weight") == "llm"
    for path in (family.encoder, family.decoder, family.head):
        assert any(True for _ in module_at(model, path).parameters())
    text = "Ein Hund bellt — 犬が吠える!"
    tokenizer = load_processor(str(folders[name])).tokenizer
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_the_answer_and_audio_tokens_are_counted(name: str, folders: dict[str, Path]) -> None:
    encode = encoder(folders[name])
    batch = encode([clip(0, 1.0), clip(1, 2.6, "two dogs bark"), clip(2, None, "none")])
    tokenizer = load_processor(str(folders[name])).tokenizer
    for row, answer in zip(batch["labels"], ("a dog", "two dogs bark", "none"), strict=True):
        wanted = row[row != IGNORE].tolist()
        assert wanted[-1] == encode.eos_token_id and tokenizer.decode(wanted[:-1]) == answer
    family = family_named(name)
    token = family.audio_token_id(load_config(str(folders[name])))
    counts = (batch["input_ids"] == token).sum(1).tolist()
    if name in MASKED:
        frames = batch[family.features_mask].sum(1).tolist()
        assert counts == [((n - 1) // 2 + 1 - 2) // 2 + 1 for n in frames] + [0]
    else:
        by_window = {"voxtral": 75, "salmonn": 31}
        assert counts == ([by_window[name]] * 2 + [0] if name in by_window else [12, 27, 0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seconds", [(1.0, 0.05, 2.5), (11.0, 25.0, 0.5)], ids=["short", "beyond_the_window"])
def test_our_log_mel_changes_nothing_else(name: str, seconds: tuple[float, ...], folders: dict[str, Path]) -> None:
    slow, fast = encoder(folders[name]), encoder(folders[name], fast=True)
    assert (fast.log_mel is not None) == (name in WHISPER)
    examples = [clip(number, each) for number, each in enumerate(seconds)]
    for wanted, got in ((slow(examples), fast(examples)), (slow.prompts(examples), fast.prompts(examples))):
        assert set(wanted) == set(got)
        for key, tensor in wanted.items():
            assert got[key].dtype == tensor.dtype and got[key].shape == tensor.shape, key
            if key == "input_features":
                assert (got[key] - tensor).abs().max() <= 1e-5
            else:
                assert torch.equal(got[key], tensor), key
    assert torch.isfinite(logits_of(model_of(folders[name]), fast(examples))).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_scores_like_its_examples_alone(name: str, folders: dict[str, Path]) -> None:
    """Granite's encoder hears the padding to the longest clip; there the clips are of one length."""
    seconds = (2.0, 2.0, None) if name == "granite_speech" else (1.0, 3.0, None)
    examples = [clip(k, each, "dog " * (k + 1)) for k, each in enumerate(seconds)]
    encode, model = encoder(folders[name]), model_of(folders[name])

    def loss(batch: list[Example]) -> Any:
        inputs = encode(batch)
        labels = inputs.pop("labels")
        return answer_loss(model(**inputs).logits, labels)

    with torch.no_grad():
        together, alone = loss(examples), [loss([each]) for each in examples]
    assert together.tokens == sum(each.tokens for each in alone)
    assert together.loss_sum == pytest.approx(sum(each.loss_sum for each in alone), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_text_alone_runs_the_encoder_and_nothing_comes_of_it(name: str, folders: dict[str, Path]) -> None:
    encode, model = encoder(folders[name]), model_of(folders[name])
    batch = encode([clip(0, None), clip(1, None, "two dogs bark")])
    loud = {**batch, "input_features": torch.randn_like(batch["input_features"])}
    assert torch.equal(logits_of(model, batch), logits_of(model, loud))
    labels = batch.pop("labels")
    answer_loss(model(**batch).logits, labels).mean.backward()
    family = family_named(name)
    behind = [p for key, p in trainable_parameters(model).items() if family.part_of(key) == "aligner"]
    assert behind and all(p.grad is not None and not p.grad.any() for p in behind)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_token_of_an_answer_is_the_likeliest_after_its_prompt(name: str, folders: dict[str, Path]) -> None:
    encode, model = encoder(folders[name]), model_of(folders[name])
    examples = [clip(0, 2.0), clip(1, 2.0), clip(2, None)]
    prompts = encode.prompts(examples)
    own = without_wrapper(model)
    # Greedy, and no token ends an answer: how many come is known.
    answers = own.generate(**prompts, do_sample=False, max_new_tokens=3, use_cache=True, eos_token_id=-1)
    taught = encode(examples)
    labels = taught.pop("labels")
    with torch.no_grad():
        logits = model(**taught).logits
    first = [int(logits[row, int((labels[row] != IGNORE).nonzero()[0]) - 1].argmax()) for row in range(3)]
    assert answers[:, prompts["input_ids"].shape[1]].tolist() == first and len(answers[0]) == prompts[
        "input_ids"
    ].shape[1] + 3  # fmt: skip


@pytest.mark.parametrize("name", MASKED)
def test_less_padding_changes_neither_logits_nor_gradients(name: str, folders: dict[str, Path]) -> None:
    path, found = folders[name], []
    for seconds in ((1.0, 0.05, 3.2), (None, None), (9.99, 1.0)):
        examples = [clip(k, each) for k, each in enumerate(seconds)]
        found.clear()
        for pad in ("window", "longest"):
            model = model_of(path, parts=ALL_FULL, pad_audio=pad)
            batch = encoder(path, pad_audio=pad)(examples)
            logits = logits_of(model, batch)
            logits.square().mean().backward()
            gradients = {k: p.grad for k, p in trainable_parameters(model).items() if p.grad is not None}
            found.append((batch["input_features"].shape[-1], logits, gradients))
        (window, wanted, gradients), (frames, got, ours) = found
        assert window == 500 and (frames < 200 or seconds[0] == 9.99)
        assert torch.allclose(got, wanted, atol=2e-5)
        assert set(gradients) == set(ours) and any(family_named(name).part_of(key) == "encoder" for key in gradients)
        for key, gradient in gradients.items():
            scale = float(gradient.abs().max()) + 1e-6
            assert float((ours[key] - gradient).abs().max()) <= 1e-4 * scale, key
    fast = encoder(path, fast=True, pad_audio="longest")([clip(0, 1.0), clip(1, 3.2)])
    slow = encoder(path, pad_audio="longest")([clip(0, 1.0), clip(1, 3.2)])
    assert torch.equal(fast["input_ids"], slow["input_ids"])
    assert (fast["input_features"] - slow["input_features"]).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["qwen2_audio", "audio_flamingo_3"])
def test_an_encoder_gives_every_valid_frame_its_output_of_the_whole_window(name: str, folders: dict[str, Path]) -> None:
    """At every length in turn: what the convolutions see of the padding depends on it."""
    encode = encoder(folders[name], pad_audio="longest")
    models = [without_wrapper(model_of(folders[name], pad_audio=pad)).model for pad in ("window", "longest")]
    outputs: list[torch.Tensor] = []
    for model in models:
        model.multi_modal_projector.register_forward_hook(lambda module, args, output: outputs.append(args[0]))
    for frames in range(17, 26):
        short = encode([clip(frames, frames * 0.02)])
        window = encoder(folders[name])([clip(frames, frames * 0.02)])
        outputs.clear()
        with torch.no_grad():
            for model, batch in zip(models, (window, short), strict=True):
                model(**{key: tensor for key, tensor in batch.items() if key != "labels"})
        valid = ((frames - 1) // 2 + 1 - 2) // 2 + 1
        assert short["input_features"].shape[-1] <= frames + 5
        assert (outputs[0][0, :valid] - outputs[1][0, :valid]).abs().max() <= 1e-5, frames


@pytest.mark.parametrize("name", ["voxtral", "granite_speech"])
def test_audio_that_its_encoder_hears_whole_keeps_its_padding(name: str, folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"longest clip"):
        encoder(folders[name], pad_audio="longest")
    with pytest.raises(ModelError, match=r"model\.pad_audio"):
        model_of(folders[name], pad_audio="longest")


ENCODER_LAYERS = {"granite_speech": ("to_q", "up_proj")}
ALIGNER_LAYERS = {
    "qwen2_audio": ("linear",),
    "qwen2_5_omni": ("proj",),
    "granite_speech": ("query", "value"),
    "salmonn": ("query", "value"),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_part_learns_as_told(name: str, folders: dict[str, Path]) -> None:
    path, family = folders[name], family_named(name)
    of_encoder = ENCODER_LAYERS.get(name, ("fc1", "out_proj"))
    of_aligner = ALIGNER_LAYERS.get(name, ("linear_1",))
    targets = (*LoraConfig().targets, *of_encoder, *of_aligner)
    for parts in (
        PartsConfig(),
        ALL_FULL,
        PartsConfig(encoder="lora", aligner="full", llm="frozen"),
        PartsConfig(encoder="full", aligner="lora", llm="lora"),
    ):
        model = model_of(path, parts=parts, lora=LoraConfig(r=2, targets=targets, dora=True, rslora=True))
        learning = set(trainable_parameters(model))
        for key, _ in model.named_parameters():
            part = family.part_of(key)
            how = "frozen" if part is None else getattr(parts, part)
            expected = {"frozen": False, "lora": "lora_" in key, "full": not family.learns_never(key)}[how]
            assert (key in learning) == expected, (parts, key)
        for part in ("encoder", "aligner", "llm"):
            mine = [key for key in learning if family.part_of(key) == part]
            assert bool(mine) == (getattr(parts, part) != "frozen")
            if getattr(parts, part) == "lora":
                assert any("lora_magnitude_vector" in key for key in mine)
        inputs = encoder(path)([clip(0, 1.0), clip(1, 2.0)])
        labels = inputs.pop("labels")
        answer_loss(model.train()(**inputs).logits, labels).mean.backward()
        learnt = trainable_parameters(model)
        assert [key for key, p in learnt.items() if p.grad is None or not torch.isfinite(p.grad).all()] == []


def test_rank_stabilised_adapters_are_scaled_by_the_root(folders: dict[str, Path]) -> None:
    path = folders["qwen2_audio"]
    scales = [
        {m.scaling["default"] for m in model_of(path, lora=lora).modules() if isinstance(m, LoraLayer)}
        for lora in (LoraConfig(r=4, alpha=8), LoraConfig(r=4, alpha=8, rslora=True))
    ]
    assert scales == [{2.0}, {4.0}]


def test_batch_normalisation_keeps_its_statistics_in_training(folders: dict[str, Path]) -> None:
    model = model_of(folders["granite_speech"], parts=ALL_FULL).train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    before = [norm.running_mean.clone() for norm in norms]
    batch = encoder(folders["granite_speech"])([clip(0, 2.0)])
    logits_of(model, batch)
    assert model.training and norms and not any(norm.training for norm in norms)
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))


def test_adapters_of_a_published_folder_are_merged(folders: dict[str, Path], tmp_path: Path) -> None:
    source = AutoModelForMultimodalLM.from_pretrained(folders["granite_speech"])
    source.add_adapter(PeftLoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    shutil.copytree(folders["granite_speech"], tmp_path, dirs_exist_ok=True)
    source.peft_config["default"].base_model_name_or_path = str(tmp_path)
    PreTrainedModel.save_pretrained(source, str(tmp_path))  # the adapter alone, beside the weights
    batch = encoder(folders["granite_speech"])([clip(0, 1.0)])
    model = load_base_model(ModelConfig(path=str(tmp_path))).eval()
    assert not any("lora_" in name for name in model.state_dict()) and not hasattr(model, "peft_config")
    plain = load_base_model(ModelConfig(path=str(folders["granite_speech"]))).eval()
    with torch.no_grad():
        wanted, got, other = (logits_of(each, batch) for each in (source.eval(), model, plain))
    assert torch.allclose(got, wanted, atol=1e-5) and not torch.allclose(got, other, atol=1e-3)


@pytest.mark.parametrize("name", WHISPER)
def test_cached_outputs_stand_for_the_encoder(name: str, folders: dict[str, Path]) -> None:
    path = folders[name]
    encode = encoder(path, fast=True)
    examples = [clip(k, each) for k, each in enumerate((1.0, 0.05, 3.0, 14.0))]
    outputs = OutputsOf(ModelConfig(path=str(path)), encode, CPU)
    values = [each for pair in (examples[:1], examples[1:]) for each in outputs(pair)]
    cached = [Example(e.id, "d", v, RATE_HZ, e.question, e.answer) for e, v in zip(examples, values, strict=True)]
    whole, without = model_of(path), model_of(path)
    width = use_outputs(without)
    family = family_named(name)
    assert not any(family.part_of(key) == "encoder" for key in without.state_dict())
    for chosen in (slice(0, 2), slice(2, 4), slice(1, 2)):
        wanted, got = logits_of(whole, encode(examples[chosen])), logits_of(without, encode(cached[chosen]))
        assert (wanted - got).abs().max() <= 1e-5
    text = [clip(7, None)]
    wanted = logits_of(whole, encode(text))
    encode.outputs_width = width
    assert (wanted - logits_of(without, encode(text))).abs().max() <= 1e-5


def test_outputs_that_depend_on_neighbours_are_not_cached(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="cannot be cached"):
        use_outputs(model_of(folders["granite_speech"]))


@pytest.mark.parametrize("name", NAMES)
def test_an_embedding_is_the_mean_of_what_the_language_model_is_given(name: str, folders: dict[str, Path]) -> None:
    config = ModelConfig(path=str(folders[name]))
    clips = [clip(k, 2.0) for k in range(2)]
    got = ClipEmbedder(config, CPU)(clips)
    model, family = load_base_model(config).eval(), family_named(name)
    outputs: list[torch.Tensor] = []
    aligner = module_at(model, family.parts["aligner"][0])
    aligner.register_forward_hook(lambda module, args, output: outputs.append(output))
    for each, row in zip(clips, got, strict=True):
        batch = encoder(folders[name])([each])
        with torch.no_grad():
            logits_of(model, batch)
        n_tokens = int((batch["input_ids"] == family.audio_token_id(model.config)).sum())
        rows = outputs.pop().reshape(-1, row.shape[0])[:n_tokens]
        assert np.allclose(row, rows.mean(0).numpy(), atol=1e-5)


def test_granites_spectrogram_is_that_of_another_implementation() -> None:
    from transformers.audio_utils import mel_filter_bank, spectrogram

    extractor = GraniteSpeechFeatureExtractor()
    audio = clip(3, 1.237).audio
    padded_window = np.zeros(512)
    padded_window[56:456] = np.hanning(401)[:-1]  # the window of 400 in the middle of the transform of 512
    mel = spectrogram(
        audio.astype(np.float64),
        padded_window,
        frame_length=512,
        hop_length=160,
        fft_length=512,
        power=2.0,
        mel_filters=mel_filter_bank(257, 80, 0.0, 8000.0, RATE_HZ, norm=None, mel_scale="htk"),
        mel_floor=1e-10,
    ).T
    log = np.log10(mel)
    log = np.maximum(log, log.max() - 8) / 4 + 1
    wanted = log[: len(log) // 2 * 2].reshape(-1, 160)
    got = extractor([audio])["input_features"][0].numpy()
    assert got.shape == wanted.shape and np.abs(got - wanted).max() <= 1e-4


def test_a_missing_package_is_named(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str) -> None:
        raise ImportError("VoxtralProcessor requires the mistral-common library\nand more")

    monkeypatch.setattr("pipeline.models.load.AutoProcessor.from_pretrained", missing)
    with pytest.raises(ModelError, match=r"(?s)not installed.*pip install mistral-common"):
        load_processor(str(folders["voxtral"]))


def test_a_family_that_is_not_known_is_read_by_its_structure() -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, "num_attention_heads": 4}
    config = GlmAsrConfig(audio_config=dict(small), text_config={**small, "vocab_size": 100, "model_type": "llama"})
    family = family_of(config)
    assert isinstance(family, Family) and family.name == "glmasr"
    assert family.parts == {
        "encoder": ("model.audio_tower",),
        "aligner": ("model.multi_modal_projector",),
        "llm": ("model.language_model", "lm_head"),
    }
    assert family.padding == "window" and family.head == "lm_head"


def test_a_model_without_audio_has_no_family() -> None:
    from transformers import Qwen2Config

    with pytest.raises(ModelError, match="where the parts of this model stand"):
        family_of(Qwen2Config(hidden_size=16, num_hidden_layers=1, vocab_size=32))

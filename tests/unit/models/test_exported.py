"""Exports with adapters: names, checks on the way back, and what a run takes up from one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from pipeline.config import Recipe
from pipeline.config.schema import ModelConfig
from pipeline.errors import ModelError
from pipeline.models import export_files
from pipeline.models.card import CardFacts, Which, model_card
from pipeline.models.export_files import write_adapters, write_companions, write_whole_model
from pipeline.models.exported import (
    base_digest,
    file_name,
    is_saved_whole,
    modules_in_full,
    origin_of,
    read_export,
    wrapped_name,
)
from pipeline.models.load import load_base_model, load_model, trainable_parameters
from pipeline.models.reload import load_exported

LORA = {"r": 4, "alpha": 8}


def config_of(folder: Path, **more: object) -> ModelConfig:
    return ModelConfig.model_validate({"path": str(folder), "lora": LORA, **more})


def facts_of(config: ModelConfig, **more: object) -> CardFacts:
    section = {"model": config, "data": {"shards": "none"}, "train": {"max_steps": 9}}
    recipe = Recipe.model_validate({"arm": "gst-g3", "out": "none", "schedule": {"regime": "gst"}, **section})
    run = {"data_digests": {"clotho": "ab" * 32}, "examples": {"clotho": {"train": 70}}, "n_trainable": 5}
    values = {"began_from": None, "which": Which(9, "trained"), "is_whole": False, "datasets": None, **more}
    return CardFacts(recipe, base=config.path, base_digest="d" * 64, run=run, **values)


def drawn(config: ModelConfig, seed: int) -> torch.nn.Module:
    """A model whose trained weights are not those it began with."""
    torch.manual_seed(seed)
    model = load_model(config)
    for parameter in trainable_parameters(model).values():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return model.eval()


def save(model: torch.nn.Module, config: ModelConfig, folder: Path) -> Path:
    folder.mkdir()
    trained = {name: parameter.detach() for name, parameter in trainable_parameters(model).items()}
    write_adapters(folder, origin_of(config, base_digest(config.path)), trained, {}, facts_of(config))
    write_companions(folder, config, facts_of(config))
    return folder


@pytest.fixture
def export(random_model: Path, tmp_path: Path) -> Path:
    config = config_of(random_model, parts={"encoder": "full"})
    return save(drawn(config, 0), config, tmp_path / "export")


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_are_named_as_peft_names_them(random_model: Path, dora: bool) -> None:
    model = load_model(config_of(random_model, lora={**LORA, "dora": dora}))
    ours = {name: file_name(name) for name in trainable_parameters(model) if "lora_" in name}
    assert set(ours.values()) == set(get_peft_model_state_dict(model, save_embedding_layers=False))
    assert all(wrapped_name(saved) == name for name, saved in ours.items())


def test_a_module_that_holds_a_weight_stands_for_those_inside_it() -> None:
    names = ["model.a.query", "model.a.norm.weight", "model.ab.linear.bias", "loose", "model.b.lora_A.default.weight"]
    assert modules_in_full(names) == ["model.a", "model.ab.linear"]


def test_an_export_is_read_back_and_an_ordinary_model_is_none(export: Path, random_model: Path) -> None:
    found = read_export(export)
    assert found is not None and found.base == str(random_model) and found.base_digest == base_digest(str(random_model))
    assert read_export(random_model) is None and read_export("some/hub-name") is None
    assert base_digest(str(export)) != base_digest(str(random_model))


def test_the_files_do_not_depend_on_the_process(export: Path, random_model: Path, tmp_path: Path) -> None:
    config = config_of(random_model, parts={"encoder": "full"})
    again = save(drawn(config, 0), config, tmp_path / "again")
    for name in ("adapter_model.safetensors", "adapter_config.json", "export.json", "README.md"):
        assert (again / name).read_bytes() == (export / name).read_bytes()
    layers = json.loads((export / "adapter_config.json").read_text())["target_modules"]
    assert layers == sorted(layers)


def test_another_base_model_is_refused(export: Path, random_model: Path, tmp_path: Path) -> None:
    file = export / "export.json"
    content = json.loads(file.read_text())
    for path, what in ((str(tmp_path / "gone"), "is not there"), (None, "another base model")):
        changed = {**content, "model": {**content["model"], "path": path or str(random_model)}}
        file.write_text(json.dumps({**changed, "base_digest": content["base_digest"] if path else "0" * 64}))
        with pytest.raises(ModelError, match=what) as caught:
            load_exported(export)
        assert str(file) in str(caught.value.hint)


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 1}', '{"version": 2}', '{"version": 1, "model": {}}'])
def test_a_damaged_description_is_refused(export: Path, content: str) -> None:
    (export / "export.json").write_text(content)
    with pytest.raises(ModelError) as caught:
        load_exported(export)
    assert "export.json" in str(caught.value)


def test_damaged_weights_are_refused(export: Path) -> None:
    file = export / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be read"):
        load_exported(export)


@pytest.mark.parametrize(
    "other",
    [
        {"lora": {"r": 8, "alpha": 8}},
        {"lora": {"r": 4, "alpha": 16}},
        {"lora": {**LORA, "targets": ["q_proj"]}},
        {"lora": {**LORA, "dora": True}},
        {"lora": {**LORA, "rslora": True}},
        {"parts": {"llm": "frozen"}},
    ],
)
def test_other_adapters_do_not_go_on_but_can_be_merged(export: Path, other: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="cannot go on") as caught:
        load_model(config_of(export, **other))
    assert "model.adapters=merge" in str(caught.value.hint)
    load_model(config_of(export, adapters="merge", **other))


def test_a_run_goes_on_from_all_that_was_trained(export: Path, random_model: Path, tmp_path: Path) -> None:
    """Encoder and projector, frozen now, are those of the export, and go into the next export too."""
    config = config_of(export, parts={"aligner": "frozen"})
    model = drawn(config, 1)
    learning = set(trainable_parameters(model))
    assert learning and all("lora_" in name for name in learning)
    second = save(model, config, tmp_path / "second")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (export, second))
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {file_name(n) for n in learning}
    found = read_export(second)
    assert found is not None and found.base == str(random_model)
    inputs = {"input_ids": torch.tensor([[7, 8, 9]])}
    with torch.no_grad():
        assert torch.equal(load_exported(second)[0](**inputs).logits, model(**inputs).logits)


def test_the_base_of_an_export_has_what_was_trained_in_full(export: Path, random_model: Path) -> None:
    """Embeddings of clips and cached outputs of the encoder are made with it."""
    was, now = (dict(load_base_model(config_of(path)).named_parameters()) for path in (random_model, export))
    moved = {name for name in was if not torch.equal(was[name], now[name])}
    assert any("audio_tower" in name for name in moved) and any("projector" in name for name in moved)
    assert not any("language_model" in name for name in moved)


def test_merged_adapters_are_a_model_of_their_own(export: Path, random_model: Path) -> None:
    assert is_saved_whole(config_of(export, adapters="merge")) and not is_saved_whole(config_of(export))
    assert not is_saved_whole(config_of(random_model)) and is_saved_whole(
        config_of(random_model, parts={"llm": "full"})
    )
    inputs = {"input_ids": torch.tensor([[7, 8, 9]])}
    merged = load_model(config_of(export, adapters="merge", lora={"r": 2})).eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, load_exported(export)[0](**inputs).logits)


def test_the_whole_model_is_written_in_files_of_a_size(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(random_model, lora={**LORA, "dora": True})
    model = drawn(config, 2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir()
    many.mkdir()
    write_whole_model(one, model)
    monkeypatch.setattr(export_files, "MAX_FILE_SIZE", "100KB")
    write_whole_model(many, model)
    assert len(list(many.glob("model-*.safetensors"))) > 2
    whole = load_file(one / "model.safetensors")
    index = json.loads((many / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == whole.keys() == load_file(random_model / "model.safetensors").keys()
    for name, file in index.items():
        assert torch.equal(load_file(many / file)[name], whole[name])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items()), "the model was changed"


def test_the_card_says_what_the_run_says(random_model: Path) -> None:
    config = config_of(random_model, lora={**LORA, "rslora": True})
    score = {"clotho": {"examples": 6, "loss": 1.5, "token_accuracy": 0.25, "exact_match": 0.0}}
    card = model_card(facts_of(config, which=Which(9, "ema", "val/macro/loss"), datasets=score, began_from="there"))
    for text in (
        f"`{random_model}`", "d" * 64, "Step 9", "best of the run by `val/macro/loss`", "`train.averaging.kind: ema`",
        "rsLoRA, rank 4, alpha 8", "| clotho | 70 | `abababababababab` |", "| clotho | 6 | 1.5000 | 0.2500 | 0.0000 |",
        "Schedule `gst`", "exported to `there`",
    ):  # fmt: skip
        assert text in card
    assert "were not tested" in model_card(facts_of(config))

"""`gst features` on real shards with a real model: what a run reads from its cache is what it would have computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.cli.feature_files import Filler, fill_missing, open_features
from pipeline.config import Recipe, load_recipe
from pipeline.data.index import ShardIndex
from pipeline.errors import ConfigError, ShardError
from pipeline.models.encode import AnswerEncoder
from pipeline.models.load import load_model, load_processor
from pipeline.types import ClipFeatures

CLIPS = 4 * (24 + 6 + 6)  # of the tone corpora
SHARDS = 4 * 3


def recipe_of(shards: Path, model: Path, out: Path, *overrides: str) -> Recipe:
    return load_recipe("mini", [f"data.shards={shards}", f"model.path={model}", f"out={out}", *overrides])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module", params=["log_mel", "encoder"])
def filled(request: pytest.FixtureRequest, tone_shards: Path, tiny_model: Path, folder: Path) -> Recipe:
    recipe = recipe_of(tone_shards, tiny_model, folder, f"data.features.cache={request.param}")
    done, shards, _ = fill_missing(recipe)
    assert (done.shards, done.clips, done.unreadable, shards) == (SHARDS, CLIPS, 0, SHARDS)
    return recipe


def test_a_run_gets_the_same_from_the_cache(filled: Recipe) -> None:
    inputs, logits = [], []
    for recipe in (
        filled,
        filled.model_copy(update={"data": filled.data.model_copy(update={"features": _off(filled)})}),
    ):
        index = ShardIndex(recipe.data.shards, max_duration_s=recipe.data.max_duration_s)
        encode = AnswerEncoder(load_processor(recipe.model.path), fast=True)
        torch.manual_seed(0)
        model = load_model(recipe.model)
        cache = open_features(recipe, index, encode, model)
        examples = [index.read(name, split, 3) for name in index.datasets for split in ("train", "test")]
        assert all(isinstance(each.audio, ClipFeatures) for each in examples) == (cache is not None)
        if cache is not None:
            assert cache.counts() == {"cached": 8, "missing": 0, "damaged": 0, "shards_lacking": 0}
        inputs.append(encode(examples))
        with torch.no_grad():
            logits.append(model(**{k: v for k, v in inputs[-1].items() if k != "labels"}).logits)
    cached, computed = inputs
    for name, tensor in computed.items():
        if name != "input_features" or filled.data.features.cache == "log_mel":
            assert torch.equal(cached[name], tensor), name
    assert (logits[0] - logits[1]).abs().max() <= (0 if filled.data.features.cache == "log_mel" else 1e-5)


def _off(recipe: Recipe) -> object:
    return recipe.data.features.model_copy(update={"cache": "none"})


def test_filling_goes_on_where_it_stopped(filled: Recipe) -> None:
    filler = Filler(filled)
    assert filler.missing() == []
    before = [shard.values.read_bytes() for shard in filler.shards]
    filler.shards[1].side.unlink()  # as if the job had been stopped between the two files
    filler.shards[5].values.write_bytes(before[5][:-1])
    done, _, _ = fill_missing(filled)
    assert done.shards == 2 and filler.missing() == []
    assert [shard.values.read_bytes() for shard in filler.shards] == before


def test_the_key_holds_what_the_values_depend_on(filled: Recipe) -> None:
    shorter = filled.model_copy(update={"data": filled.data.model_copy(update={"max_duration_s": 0.5})})
    assert len(Filler(shorter).missing()) == SHARDS


def test_training_limited_to_a_part_reads_the_same_files(filled: Recipe) -> None:
    index = ShardIndex(filled.data.shards, max_duration_s=filled.data.max_duration_s, train_per_dataset=5)
    encode = AnswerEncoder(load_processor(filled.model.path), fast=True)
    open_features(filled, index, encode, load_model(filled.model))
    assert all(isinstance(index.read("height", "train", i).audio, ClipFeatures) for i in range(5))


@pytest.mark.slow
def test_several_processes_write_the_same_bytes(filled: Recipe, tmp_path: Path) -> None:
    elsewhere = filled.model_copy(update={"out": str(tmp_path)})
    done, _, _ = fill_missing(elsewhere, processes=2)
    assert done.clips == CLIPS
    for one, other in zip(Filler(filled).shards, Filler(elsewhere).shards, strict=True):
        assert one.values.read_bytes() == other.values.read_bytes()
        assert one.side.read_bytes() == other.side.read_bytes()


def test_encoder_outputs_that_lack_are_refused_before_training(
    tone_shards: Path, tiny_model: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tone_shards, tiny_model, tmp_path, "data.features.cache=encoder")
    encode = AnswerEncoder(load_processor(str(tiny_model)), fast=True)
    with pytest.raises(ShardError, match="lacks shards"):
        open_features(recipe, ShardIndex(tone_shards), encode, load_model(recipe.model))


def test_recipes_that_cannot_be_served_are_refused(tone_shards: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="caches no features"):
        fill_missing(recipe_of(tone_shards, tiny_model, tmp_path))
    with pytest.raises(ConfigError, match="fast"):
        recipe_of(tone_shards, tiny_model, tmp_path, "data.features.cache=log_mel", "data.features.fast=false")
    parts = ("model.parts.llm=full", "train.save_model=true")
    whole = recipe_of(tone_shards, tiny_model, tmp_path, "data.features.cache=encoder", *parts)
    encode = AnswerEncoder(load_processor(str(tiny_model)), fast=True)
    with pytest.raises(ConfigError, match="saved whole"):
        open_features(whole, ShardIndex(tone_shards), encode, load_model(whole.model))
    frames = recipe_of(tone_shards, tiny_model, tmp_path, "data.features.cache=log_mel")
    unknown = AnswerEncoder(load_processor(str(tiny_model)))
    with pytest.raises(ConfigError, match="cannot be cached"):
        open_features(frames, ShardIndex(tone_shards), unknown, torch.nn.Identity())

"""Recipes: every mistake names its key; what is shipped can be loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.cli.probe import run_probe
from pipeline.config import dump_recipe, load_recipe, load_stages, recipe_digest, saved_model
from pipeline.config.batches import plan_batches
from pipeline.config.deepspeed import check_deepspeed_json, render_deepspeed
from pipeline.config.load import ARMS, RECIPES
from pipeline.errors import ConfigError, GstError, WorldSizeError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(path.stem for path in RECIPES.glob("*.yaml"))
OF_ONE_RUN = [name for name in SHIPPED if len(load_stages(name)) == 1]


def write(tmp_path: Path, text: str) -> str:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return str(file)


MINIMAL = "arm: a\nout: o\nmodel: {path: m}\ndata: {shards: s}\ntrain: {max_steps: 4}\n"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads_and_renders(name: str) -> None:
    for recipe in load_stages(name):
        assert render_deepspeed(recipe, 2)["gradient_accumulation_steps"] == plan_batches(recipe.train, 2).accumulation


@pytest.mark.parametrize("file", sorted((ROOT / "ds_configs").glob("*.json")), ids=lambda f: f.name)
def test_every_deepspeed_json_is_accepted(file: Path) -> None:
    check_deepspeed_json(json.loads(file.read_text()), file)


def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, MINIMAL), ["train.max_step=3"])
    assert caught.value.where["key"] == "train.max_step"
    assert caught.value.hint == "did you mean `max_steps`?"


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing") as caught:
        load_recipe(write(tmp_path, "arm: a\nout: o\nmodel: {path: m}\ndata: {shards: s}\ntrain: {}\n"))
    assert caught.value.where["key"] == "train.max_steps"


def test_a_value_out_of_range_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, MINIMAL), ["train.optimizer.lr=-1"])
    assert caught.value.where["key"] == "train.optimizer.lr" and caught.value.got == -1


def test_overrides_win_over_the_file_and_its_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(MINIMAL + "eval: {micro_batch: 2, val_per_dataset: 5}\n")
    child = write(tmp_path, "extends: parent.yaml\narm: b\neval: {micro_batch: 3}\n")
    recipe = load_recipe(child, ["eval.val_per_dataset=7"])
    assert (recipe.arm, recipe.eval.micro_batch, recipe.eval.val_per_dataset) == ("b", 3, 7)


def test_recipes_that_extend_each_other_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ConfigError, match="circle"):
        load_recipe(tmp_path / "a.yaml")


def test_sketch_settings_that_cannot_work_together_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL)
    for k in (16, 1000, 2**21):
        with pytest.raises(ConfigError):
            load_recipe(file, [f"sketch.k={k}"])
    with pytest.raises(ConfigError, match="second moments are partitioned"):
        load_recipe(file, ["sketch.gradient=adam"])
    (tmp_path / "zero2.json").write_text(json.dumps({"zero_optimization": {"stage": 2}, "compile": {}}))
    stage_two = ["sketch.mode=partition", "sketch.gradient=adam", f"engine.deepspeed={tmp_path / 'zero2.json'}"]
    with pytest.raises(ConfigError, match="only ZeRO-3") as caught:
        render_deepspeed(load_recipe(file, stage_two), 1)
    assert (caught.value.got, caught.value.expected) == (2, 3)
    assert render_deepspeed(load_recipe(file, [*stage_two, "sketch.enabled=false"]), 1)
    for change, key in (("train.optimizer.name=lion", "train.optimizer.name"), ("probe.warmup_steps=0",) * 2):
        with pytest.raises(ConfigError, match="second moments") as caught:
            run_probe(load_recipe(file, [*stage_two, "sketch.enabled=false", change]))
        assert caught.value.where == {"key": key.partition("=")[0]}
    assert render_deepspeed(load_recipe(file, stage_two[2:]), 1)["fp16"] == {"enabled": False}


@pytest.mark.parametrize("override", ["noequals", "=3", "a..b=1", "arm.x=1"])
def test_a_bad_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError):
        load_recipe(write(tmp_path, MINIMAL), [override])


def test_a_regime_is_known_by_its_names_or_refused(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, MINIMAL), ["schedule.regime=parallel"]).schedule.regime == "mix_all"
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, MINIMAL), ["schedule.regime=mixall"])
    assert caught.value.hint == "did you mean `mix_all`?"


def test_the_resolved_recipe_loads_again_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe("mini-gst-g3")
    again = load_recipe(write(tmp_path, dump_recipe(recipe)))
    assert again == recipe and recipe_digest(again) == recipe_digest(recipe)


def test_the_digest_follows_what_changes_numbers_only(tmp_path: Path) -> None:
    digest = recipe_digest(load_recipe(write(tmp_path, MINIMAL)))
    assert recipe_digest(load_recipe(write(tmp_path, MINIMAL), ["out=elsewhere"])) == digest
    assert recipe_digest(load_recipe(write(tmp_path, MINIMAL), ["train.seed=1"])) != digest


def test_a_world_size_that_does_not_divide_the_batch_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), ["train.global_batch=16", "train.micro_batch=4"])
    assert plan_batches(recipe.train, 2).accumulation == 2
    with pytest.raises(WorldSizeError, match="3 ranks") as caught:
        plan_batches(recipe.train, 3)
    assert "1, 2, 4" in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"train_batch_size": 8}, "belongs to the recipe"),
        ({"zero_optimisation": {"stage": 3}}, "zero_optimization"),
        ({"zero_optimization": {"reduce_bucket_size": "auto"}}, "auto"),
        ({"compile": {"deepcompile": True}}, "no hook can sketch"),
    ],
)
def test_a_deepspeed_json_that_would_mislead_is_refused(tree: dict, message: str) -> None:
    with pytest.raises(GstError, match=message):
        check_deepspeed_json(tree, Path("some.json"))


def test_stages_are_runs_of_their_own_each_from_the_model_before(tmp_path: Path) -> None:
    stages = """
stages:
  - {name: align, model: {parts: {llm: full}}, train: {max_steps: 7}}
  - {name: instruct, data: {datasets: [clotho]}}
"""
    file = write(tmp_path, MINIMAL + stages)
    align, instruct = load_stages(file, ["train.seed=3"])
    assert [align.arm.rpartition("-")[2], instruct.arm.rpartition("-")[2]] == ["align", "instruct"]
    assert align.train.save_model and not instruct.train.save_model
    assert instruct.model.path == str(saved_model(align)) and saved_model(align).parent.name.endswith("align-s3")
    assert (align.train.max_steps, instruct.data.datasets) == (7, ("clotho",)) and instruct.train.max_steps != 7
    with pytest.raises(ConfigError, match="stages of its own"):
        load_recipe(file)
    assert load_stages(write(tmp_path, MINIMAL)) == [load_recipe(write(tmp_path, MINIMAL))]


@pytest.mark.parametrize("stages", ["[]", "[{model: {dtype: bf16}}]", "[{name: a}, {name: a}]", "[a]"])
def test_stages_without_names_of_their_own_are_refused(tmp_path: Path, stages: str) -> None:
    with pytest.raises(ConfigError, match="name of its own"):
        load_stages(write(tmp_path, f"{MINIMAL}\nstages: {stages}\n"))


@pytest.mark.parametrize(
    ("later", "key"),
    [("lora: {r: 4}", "model.lora.r"), ("parts: {llm: full}", "model.parts.llm"), ("lora: {dora: true}", "dora")],
)
def test_a_stage_with_other_adapters_than_the_one_before_is_refused(tmp_path: Path, later: str, key: str) -> None:
    stages = f"stages: [{{name: a}}, {{name: b, model: {{{later}, adapters: {{how}}}}}}]\n"
    with pytest.raises(ConfigError, match="cannot train the adapters") as caught:
        load_stages(write(tmp_path, f"{MINIMAL}\n{stages.replace('{how}', 'continue')}"))
    assert key in str(caught.value) and "merge" in str(caught.value.hint)
    assert len(load_stages(write(tmp_path, f"{MINIMAL}\n{stages.replace('{how}', 'merge')}"))) == 2


@pytest.mark.parametrize("base", ["mini-phases", "qwen2.5-omni-7b"])
@pytest.mark.parametrize("arm", ["sm", "tpc", "ads", "tpc-ads", "gst-g3"])
def test_the_regimes_of_the_second_papers_phase_2_share_its_phase_1(base: str, arm: str) -> None:
    first, second = load_stages(f"{base}-{arm}")
    assert first == load_stages(base)[0]
    assert second.schedule.regime == load_recipe(f"mini-{arm}").schedule.regime
    assert (first.arm, second.arm) == ("phase1", f"{second.arm.removesuffix('-phase2')}-phase2")
    assert first.schedule.regime == "mix_all" and second.model.path == str(saved_model(first))
    assert str(first.model.parts) == "encoder full, aligner full, llm lora"
    assert str(second.model.parts) == "encoder frozen, aligner frozen, llm lora"


ARM_NAMES = sorted(path.stem for path in ARMS.glob("*.yaml"))


@pytest.mark.parametrize("base", OF_ONE_RUN)
@pytest.mark.parametrize("arm", ARM_NAMES)
def test_every_arm_goes_on_top_of_every_base(base: str, arm: str) -> None:
    recipe, alone = load_recipe(f"{base}-{arm}"), load_recipe(base)
    assert recipe == load_recipe(f"{base}:{arm}")
    assert recipe.arm == arm.replace("mix-all", "mix_all")
    assert (recipe.model, recipe.train, recipe.data) == (alone.model, alone.train, alone.data)


def test_a_file_of_ones_own_takes_arms_too(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL)
    assert load_recipe(f"{file}:gst-t2").affinity.method == "transferability"
    mine = tmp_path / "mine.yaml"
    mine.write_text("arm: mine\nschedule: {regime: pike}\n")
    recipe = load_recipe(f"{file}:{mine}", ["schedule.pike.zeta1=0.5"])
    assert (recipe.arm, recipe.schedule.regime, recipe.schedule.pike.zeta1) == ("mine", "pike", 0.5)


def test_an_unknown_arm_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("mini-gst-g33")
    assert caught.value.hint == "did you mean `mini-gst-g3`?"


def test_a_recipe_that_extends_itself_by_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_text("extends: sub/b\n")
    (tmp_path / "sub" / "b").write_text("extends: a\n")
    with pytest.raises(ConfigError, match="circle"):
        load_recipe("a")

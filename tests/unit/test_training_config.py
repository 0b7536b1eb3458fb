"""The recipe's training section: what it fills in, what it refuses, and where DeepSpeed's JSON does not fit it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Recipe, dump_recipe, load_recipe, parse_recipe
from pipeline.config.deepspeed import render_deepspeed
from pipeline.config.training import OPTIMIZER_DEFAULTS, OptimizerConfig
from pipeline.engine.optimizers import OPTIMIZERS, build_optimizer
from pipeline.errors import ConfigError
from tests.dist.strategies_model import TinyModel


def recipe_of(deepspeed: Path | str = "cpu_zero3.json", **train: Any) -> Recipe:
    tree = {
        "arm": "x", "out": "o", "model": {"path": "m"}, "data": {"shards": "s"},
        "engine": {"deepspeed": str(deepspeed)}, "train": {"max_steps": 100, **train},
    }  # fmt: skip
    return parse_recipe(tree, source="test")


def test_every_optimizer_has_an_entry_and_defaults() -> None:
    assert set(OPTIMIZERS) == set(OPTIMIZER_DEFAULTS)


def test_each_optimizer_gets_its_own_defaults() -> None:
    assert recipe_of().train.optimizer == OptimizerConfig(name="adamw", betas=(0.9, 0.98), eps=1e-8)
    lion = recipe_of(optimizer={"name": "lion", "lr": 1e-4}).train.optimizer
    assert (lion.betas, lion.eps, lion.lr) == ((0.9, 0.99), None, 1e-4)
    dog = recipe_of(optimizer={"name": "dog"}).train.optimizer
    assert (dog.lr, dog.weight_decay, dog.betas) == (1.0, 0.0, None)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_resolved_recipe_loads_again_as_itself(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(optimizer={"name": name}, lr_schedule={"kind": "constant"}, keep_best={}, grades={})
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"optimizer": {"name": "lion", "eps": 1e-8}}, "lion takes no eps"),
        ({"optimizer": {"name": "adafactor", "betas": [0.9, 0.99]}}, "adafactor takes no betas"),
        ({"optimizer": {"name": "lamb", "betas": None}}, "lamb needs betas"),
        ({"optimizer": {"name": "dog", "lr": 0.1}}, "dog finds its own step size"),
        ({"optimizer": {"name": "dog"}, "lr_scaling": "linear", "base_batch": 8}, "no learning rate to scale"),
        ({"optimizer": {"name": "schedule_free"}}, "lr_schedule.kind to constant"),
        (
            {
                "optimizer": {"name": "schedule_free"},
                "lr_schedule": {"kind": "constant"},
                "averaging": {"kind": "ema"},
            },
            "already evaluates averaged weights",
        ),
        ({"lr_scaling": "sqrt"}, "lr_scaling and base_batch"),
        ({"base_batch": 8}, "lr_scaling and base_batch"),
        ({"lr_schedule": {"kind": "one_cycle", "rewarm_steps": 5}}, "one climb and one fall"),
        ({"lr_schedule": {"kind": "infinite", "min_share": 0.6}}, "above constant_share"),
        ({"lr_schedule": {"kind": "infinite", "cooldown_share": 0.8}}, "more than the whole budget"),
        ({"keep_best": {"metric": "train/loss"}}, "val/<dataset or macro>"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(train: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_of(**train)


def test_a_misspelt_key_inside_an_optional_section_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_of(keep_best={"metrc": "val/macro/loss"})
    assert caught.value.where["key"] == "train.keep_best.metrc" and caught.value.hint == "did you mean `metric`?"


def test_the_learning_rate_follows_the_batch_when_asked() -> None:
    keys = {"optimizer": {"lr": 0.01}, "global_batch": 64, "micro_batch": 4}
    assert recipe_of(**keys).train.peak_lr == 0.01
    assert recipe_of(**keys, lr_scaling="linear", base_batch=16).train.peak_lr == pytest.approx(0.04)
    assert recipe_of(**keys, lr_scaling="sqrt", base_batch=16).train.peak_lr == pytest.approx(0.02)


def test_the_best_is_the_lowest_loss_or_the_highest_score() -> None:
    def lower(**keys: str) -> bool:
        kept = recipe_of(keep_best=keys).train.keep_best
        assert kept is not None
        return kept.lower_is_better

    assert lower() and not lower(metric="val/macro/exact_match")
    assert not lower(mode="max") and lower(metric="val/a/token_accuracy", mode="min")


@pytest.mark.parametrize(
    ("options", "key", "hint"),
    [
        ({"name": "lion", "options": {"weight_decuple": False}}, "weight_decuple", "did you mean 'weight_decouple'?"),
        ({"name": "adamw", "options": {"amsgradd": True}}, "amsgradd", "did you mean 'amsgrad'?"),
        ({"name": "lamb", "options": {"lr": 3}}, "lr", None),
        ({"name": "adafactor", "options": {"relative_step": True}}, "relative_step", None),
        ({"name": "sophia", "options": {"num_samples": 2}}, "num_samples", None),
        ({"name": "adam_mini", "options": {"num_heads": 2}}, "num_heads", None),
    ],
)
def test_an_option_that_is_not_the_optimizers_is_refused(options: dict, key: str, hint: str | None) -> None:
    with pytest.raises(ConfigError, match="takes no such option") as caught:
        build_optimizer(OptimizerConfig(**options), TinyModel())
    assert caught.value.where["key"] == f"train.optimizer.options.{key}"
    assert hint is None or caught.value.hint == hint


@pytest.mark.parametrize("name", ["lamb", "schedule_free", "adam_mini"])
def test_values_that_the_library_refuses_are_a_plain_error(name: str) -> None:
    options = {"lamb": {"max_grad_norm": -1.0}, "schedule_free": {"r": "x", "warmup_step": 1}, "adam_mini": {"eps": 1}}
    with pytest.raises(ConfigError, match=name):
        build_optimizer(OptimizerConfig(name=name, options=options[name]), TinyModel())


def test_matrices_alone_decay() -> None:
    optimizer = build_optimizer(OptimizerConfig(name="lion", weight_decay=0.3), TinyModel())
    decays = [(p.ndim >= 2, group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]]
    assert set(decays) == {(True, 0.3), (False, 0.0)}


@pytest.mark.parametrize(
    ("train", "key"),
    [
        ({"optimizer": {"name": "lamb"}}, "train.optimizer.name=lamb"),
        ({"optimizer": {"name": "sophia"}}, "train.optimizer.name=sophia"),
        ({"optimizer": {"autoclip": {}}}, "train.optimizer.autoclip"),
        ({"averaging": {"kind": "ema"}}, "train.averaging.kind=ema"),
        ({"grades": {}}, "train.grades"),
        ({"keep_best": {}}, "train.keep_best.use_for_test"),
    ],
)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_what_needs_zero3_is_refused_under_other_stages(
    train: dict[str, Any], key: str, stage: int, tmp_path: Path
) -> None:
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    with pytest.raises(ConfigError, match="needs ZeRO-3") as caught:
        render_deepspeed(recipe_of(file, **train), 1)
    assert key in str(caught.value)
    assert render_deepspeed(recipe_of(file, optimizer={"name": "lion"}), 1)["zero_allow_untested_optimizer"]
    assert render_deepspeed(recipe_of(**train), 1)


def test_offloading_is_refused_where_it_would_be_wrong(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    for device, refused in (("cpu", ["sophia"]), ("nvme", ["sophia", "lamb"])):
        file.write_text(json.dumps({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": device}}}))
        for name in ("adamw", "lion", "lamb", "sophia"):
            recipe = recipe_of(file, optimizer={"name": name})
            if name in refused:
                with pytest.raises(ConfigError, match="cannot work where"):
                    render_deepspeed(recipe, 1)
            else:
                assert render_deepspeed(recipe, 1)


def test_no_fixed_limit_is_no_clipping_for_deepspeed() -> None:
    assert render_deepspeed(recipe_of(optimizer={"clip_norm": None}), 1)["gradient_clipping"] == 0.0
    assert render_deepspeed(recipe_of(), 1)["gradient_clipping"] == 1.0

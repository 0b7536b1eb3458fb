"""The recipe's keys for answers, metrics and limited data: refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from pipeline.config import load_recipe, recipe_digest
from pipeline.config.schema import AnswerKind
from pipeline.errors import ConfigError
from pipeline.eval.metrics import KINDS


@pytest.fixture
def file(tmp_path: Path) -> Path:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("arm: a\nout: o\nmodel: {path: m}\ndata: {shards: s}\ntrain: {max_steps: 4}\n")
    return recipe


def test_nothing_is_generated_and_no_data_left_out_unless_asked_for(file: Path) -> None:
    recipe = load_recipe(file)
    assert (recipe.eval.generate_per_dataset, recipe.eval.max_new_tokens, recipe.eval.kinds) == (0, 64, {})
    assert recipe.data.train_per_dataset is None


def test_each_key_is_part_of_what_a_run_is(file: Path) -> None:
    asked = [
        "eval.generate_per_dataset=null",
        "eval.generate_per_dataset=5",
        "eval.max_new_tokens=5",
        "eval.kinds={qa: closed}",
        "data.train_per_dataset=250",
    ]
    assert load_recipe(file, asked[:1]).eval.generate_per_dataset is None
    digests = {recipe_digest(load_recipe(file, [override])) for override in asked}
    assert len(digests | {recipe_digest(load_recipe(file))}) == len(asked) + 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("eval.generate_per_dataset", -1),
        ("eval.max_new_tokens", 0),
        ("eval.max_new_tokens", -3),
        ("data.train_per_dataset", 0),
        ("data.train_per_dataset", -250),
    ],
)
def test_a_number_out_of_range_is_named(file: Path, key: str, value: int) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, [f"{key}={value}"])
    assert caught.value.where["key"] == key and caught.value.got == value


def test_kinds_are_those_that_have_metrics(file: Path) -> None:
    assert get_args(AnswerKind) == KINDS
    with pytest.raises(ConfigError, match="caption") as caught:
        load_recipe(file, ["eval.kinds={qa: captions}"])
    assert caught.value.where["key"] == "eval.kinds.qa"

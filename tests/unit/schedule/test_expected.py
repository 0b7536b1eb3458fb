"""What a plan comes to, on numbers that can be followed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import Recipe
from pipeline.schedule import build_plan
from pipeline.schedule.expected import ALL_CLUSTERS, ExpectedStage, expected_stages, whole_run
from tests.unit.schedule.builders import DOMAINS, SIZES, make_recipe

TOKENS = {"a": 2.0, "b": 5.0, "c": 3.0, "d": 1.0}


def recipe_of(schedule: dict[str, Any]) -> Recipe:
    given = {"grouping": "explicit", "explicit": [["a", "b"], ["c"], ["d"]], "weights": {"kind": "proportional"}}
    return make_recipe({"regime": "gst", **given, **schedule}, global_batch=8, micro_batch=4, eval_every=10)


def stages_of(recipe: Recipe, tokens: dict[str, float] | None = TOKENS) -> list[ExpectedStage]:
    return expected_stages(recipe, build_plan(recipe, SIZES, DOMAINS), SIZES, tokens)


def test_samples_epochs_and_tokens_of_stages_with_a_limit() -> None:
    first, second, third = stages_of(recipe_of({"stage": {"max_share": 0.3}}))
    assert [stage.steps for stage in (first, second, third)] == [30, 30, 40]
    assert [stage.samples for stage in (first, second, third)] == pytest.approx([240, 240, 320])
    a, b = first.parts  # 100 and 400 examples: a fifth and four fifths of 240 samples
    assert (a.name, a.train) == ("a", 100) and (a.samples, b.samples) == pytest.approx((48, 192))
    assert (a.epochs, b.epochs) == pytest.approx((0.48, 0.48))
    assert first.tokens == pytest.approx(48 * 2 + 192 * 5)
    assert [part.samples for part in third.parts] == pytest.approx([320 * n / 3000 for n in (100, 400, 900, 1600)])
    # Evaluations come every 10 steps, and once before the first.
    assert [stage.evaluations for stage in (first, second, third)] == [4, 3, 4]
    assert not any(stage.assumed for stage in (first, second, third))


def test_the_whole_run_adds_up_the_stages() -> None:
    stages = stages_of(recipe_of({"stage": {"max_share": 0.3}}))
    total = {part.name: part for part in whole_run(stages, SIZES)}
    assert sum(part.samples for part in total.values()) == pytest.approx(800)
    assert total["a"].samples == pytest.approx(48 + 240 / 14 + 320 / 30)
    assert total["a"].tokens == pytest.approx(2 * total["a"].samples)
    assert total["d"].epochs == pytest.approx(320 * 1600 / 3000 / 1600)


def test_minimum_shares_count() -> None:
    recipe = recipe_of({"stage": {"max_share": 0.3}})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"min_share": 0.5})})
    a, b = stages_of(recipe)[0].parts  # at least half of an equal share: a quarter
    assert (a.samples, b.samples) == pytest.approx((60, 180))


@pytest.mark.parametrize(
    ("schedule", "steps", "assumed"),
    [
        ({"regime": "mix_all"}, [100], [False]),
        # No limit: a third of 100, then half of the 67 that are left.
        ({}, [33, 34, 33], [True, True, False]),
        # 35.2 and 28 tokens a step: 350 and 270 of them take 10 steps each.
        ({"plateau": {"detector": "none"}, "stage": {"max_tokens": [350, 270]}}, [10, 10, 80], [False] * 3),
        # Two visits each, with half of 1/6, 3/10 and 8/15 of the budget: 8, 15 and 27 steps.
        ({"regime": "gst_strict_cycle", "grouping": "domain", "order": "progressive"}, [16, 30, 54], [False] * 3),
        ({"regime": "gst_adaptive", "grouping": "domain", "order": "progressive"}, [35, 35, 30], [True, True, False]),
        ({"regime": "individual", "weights": {"kind": "temperature"}}, [10, 20, 30, 40], [False] * 4),
    ],
)  # fmt: skip
def test_steps_of_every_kind_of_stage(schedule: dict[str, Any], steps: list[int], assumed: list[bool]) -> None:
    stages = stages_of(recipe_of(schedule))
    assert [stage.steps for stage in stages] == steps
    assert [stage.assumed for stage in stages] == assumed
    assert sum(stage.evaluations for stage in stages) == 11


def test_a_cycle_comes_back_to_its_stages() -> None:
    stages = stages_of(recipe_of({"regime": "gst_strict_cycle", "grouping": "domain", "order": "progressive"}))
    assert [stage.visits for stage in stages] == [2, 2, 2]


def test_without_tokens_limits_in_tokens_are_left_out() -> None:
    limited = recipe_of({"plateau": {"detector": "none"}, "stage": {"max_tokens": [350, 270]}})
    stages = stages_of(limited, None)
    assert [stage.steps for stage in stages] == [33, 34, 33] and stages[0].assumed
    assert all(stage.tokens is None for stage in stages)
    assert all(part.tokens is None for part in whole_run(stages, SIZES))


def test_clusters_are_one_part() -> None:
    (stage,) = stages_of(recipe_of({"regime": "ads"}))
    (part,) = stage.parts
    assert (part.name, part.train, part.samples) == (ALL_CLUSTERS, 3000, 800)
    assert part.tokens == pytest.approx(800 * (100 * 2 + 400 * 5 + 900 * 3 + 1600) / 3000)
    assert [each.train for each in whole_run([stage], SIZES)] == [3000]

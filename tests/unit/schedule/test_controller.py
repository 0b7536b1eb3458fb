"""Stage plan, controller and learning rate: pure functions of what they are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Recipe
from pipeline.config.training import LrScheduleConfig
from pipeline.errors import AffinityError, CheckpointError, ConfigError
from pipeline.schedule import StageController, build_plan
from pipeline.schedule.lr import lr_factor
from tests.unit.schedule.builders import DOMAINS, SIZES, at, explicit, make_recipe


def controller_of(recipe: Recipe) -> StageController:
    return StageController(build_plan(recipe, SIZES, DOMAINS), recipe)


def test_mix_all_is_one_stage_with_tempered_weights() -> None:
    plan = build_plan(make_recipe({"regime": "mix_all"}), SIZES, DOMAINS)
    assert len(plan.stages) == 1
    assert plan.stages[0].weights == pytest.approx({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4})  # square roots of sizes


def test_the_pool_only_grows() -> None:
    stages = build_plan(explicit(), SIZES, DOMAINS).stages
    assert [stage.pool for stage in stages] == [("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d")]
    assert all(sum(stage.weights.values()) == pytest.approx(1) for stage in stages)


def test_domain_groups_are_the_domains() -> None:
    plan = build_plan(make_recipe({"regime": "gst", "grouping": "domain"}), SIZES, DOMAINS)
    assert sorted(sorted(stage.entering) for stage in plan.stages) == [["a", "b"], ["c"], ["d"]]


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ([["a", "b"]], "missing"),
        ([["a", "b"], ["b", "c", "d"]], "twice"),
        ([["aa"], ["a", "b", "c", "d"]], "unknown: ['aa']"),
    ],
)
def test_explicit_groups_must_partition_the_datasets(groups: list[list[str]], text: str) -> None:
    recipe = make_recipe({"regime": "gst", "grouping": "explicit", "explicit": groups})
    with pytest.raises(AffinityError) as caught:
        build_plan(recipe, SIZES, DOMAINS)
    assert text in str(caught.value)


def test_gradient_groups_without_an_affinity_folder_are_refused() -> None:
    with pytest.raises(ConfigError, match="affinity"):
        build_plan(make_recipe({"regime": "gst"}), SIZES, DOMAINS)


def test_a_flat_pool_brings_in_the_next_group_and_a_falling_one_does_not() -> None:
    controller = controller_of(explicit(detector="patience", window=2, min_gain=0.01))
    for step, loss in ((0, 2.0), (10, 1.5), (20, 1.2)):
        assert not controller.observe(at(step, a=loss, b=loss, c=9, d=9)).advanced
    assert not controller.observe(at(30, a=1.2, b=1.2, c=9, d=9)).advanced
    decision = controller.observe(at(40, a=1.2, b=1.2, c=9, d=9))
    assert decision.advanced and decision.stage == 1 and decision.reason["rule"] == "plateau"
    assert decision.weights["d"] == 0 and decision.weights["c"] > 0
    # A stage is judged on its own evaluations: the plateau just seen does not count for the next pool.
    assert not controller.observe(at(50, a=1.2, b=1.2, c=9, d=9)).advanced


def test_only_the_pool_is_judged() -> None:
    controller = controller_of(explicit(detector="patience", window=2, min_gain=0.01))
    for step in range(5):
        advanced = controller.observe(at(step, a=1.0, b=1.0, c=9 - step, d=9 - step)).advanced
        if advanced:
            return
    pytest.fail("the datasets outside the pool kept the stage open")


@pytest.mark.parametrize(
    ("stage", "rule", "at_step"), [({"max_tokens": 1000}, "max_tokens", 20), ({"max_share": 0.3}, "max_share", 30)]
)
def test_a_stage_ends_at_its_cap_however_steep_it_is(stage: dict[str, Any], rule: str, at_step: int) -> None:
    controller = controller_of(explicit(stage))
    for step in range(0, 100, 10):
        decision = controller.observe(at(step, a=9 - step / 20, b=9 - step / 20, c=9, d=9))
        if decision.advanced:
            assert (step, decision.reason["rule"]) == (at_step, rule)
            return
    pytest.fail("never advanced")


def test_min_tokens_hold_a_flat_stage() -> None:
    controller = controller_of(explicit({"min_tokens": 2500}, detector="patience", window=2))
    steps = [step for step in range(0, 100, 10) if controller.observe(at(step, a=1, b=1, c=1, d=1)).advanced]
    assert steps[0] == 50  # 2,500 tokens at 50 a step


def test_the_last_stage_never_ends() -> None:
    controller = controller_of(explicit({"max_tokens": 1}))
    for step in range(0, 100, 10):
        controller.observe(at(step, a=1, b=1, c=1, d=1))
    assert controller.stage == 2


def test_a_restored_controller_decides_like_the_original() -> None:
    recipe = explicit(detector="patience", window=2)
    points = [at(step, a=max(1.0, 2 - step / 30), b=1.0, c=1.0, d=1.0) for step in range(0, 200, 10)]
    whole = controller_of(recipe)
    expected = [whole.observe(point) for point in points]
    for cut in range(len(points)):
        first = controller_of(recipe)
        for point in points[:cut]:
            first.observe(point)
        second = controller_of(recipe)
        second.load_state_dict(first.state_dict())
        assert [second.observe(point) for point in points[cut:]] == expected[cut:]
        assert second.lr_factor(150) == whole.lr_factor(150)


def test_a_state_of_other_groups_is_refused() -> None:
    state = controller_of(explicit()).state_dict()
    other = make_recipe({"regime": "gst", "grouping": "explicit", "explicit": [["a"], ["b", "c", "d"]]})
    with pytest.raises(CheckpointError, match="stage plan"):
        controller_of(other).load_state_dict(state)


def test_learning_rate_warms_up_holds_and_ends_in_the_budget() -> None:
    config = LrScheduleConfig(warmup_steps=10, decay_share=0.2)
    factors = [lr_factor(config, step, 100) for step in range(1, 101)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1 and factors[79] == 1
    assert factors[99] == pytest.approx(1 / 20) and factors[9:] == sorted(factors[9:], reverse=True)


def test_a_stage_switch_dips_and_climbs_back() -> None:
    config = LrScheduleConfig(warmup_steps=0, decay_share=0, rewarm_steps=4, rewarm_floor=0.2)
    factors = [lr_factor(config, step, 100, switches=[10]) for step in (10, 11, 12, 13, 14, 15)]
    assert factors == pytest.approx([1.0, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_the_domain_partition_ignores_the_order_of_names(tmp_path: Path) -> None:
    recipe = make_recipe({"regime": "gst", "grouping": "domain", "seed": 3})
    backwards = dict(reversed(SIZES.items()))
    assert build_plan(recipe, SIZES, DOMAINS) == build_plan(recipe, backwards, DOMAINS)


def advances(controller: StageController, steps: range, **losses: float) -> list[tuple[int, int, str, bool]]:
    """(step, new stage, rule, reset) of every advance, with an evaluation at each of `steps` and where one is due."""
    found = []
    for step in range(steps.stop):
        if step in steps or step == controller.due_step:
            decision = controller.observe(at(step, **losses))
            if decision.advanced:
                found.append((step, decision.stage, decision.reason["rule"], decision.reset))
    return found


def test_individual_shares_the_budget_out_and_starts_anew_each_time() -> None:
    controller = controller_of(make_recipe({"regime": "individual"}))
    assert controller.weights == {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}
    found = advances(controller, range(0, 100, 25), a=1.0, b=1.0, c=1.0, d=1.0)
    # Roots of the sizes: shares 0.1, 0.2, 0.3, 0.4 of 100 steps; a flat loss does not cut a stage short.
    assert found == [(step, n, "budget share", True) for n, step in enumerate((10, 30, 60), start=1)]
    assert controller.due_step is None and controller.weights["d"] == 1.0


def test_an_individual_stage_has_a_learning_rate_schedule_of_its_own() -> None:
    schedule = {"warmup_steps": 5, "decay_share": 0.5}
    controller = controller_of(make_recipe({"regime": "individual"}, lr_schedule=schedule))
    advances(controller, range(0, 31, 10), a=1.0, b=1.0, c=1.0, d=1.0)
    assert controller.stage == 2  # steps 31 to 60
    alone = LrScheduleConfig(warmup_steps=5, decay_share=0.5)
    assert [controller.lr_factor(30 + i) for i in range(1, 31)] == [lr_factor(alone, i, 30) for i in range(1, 31)]


def test_sequential_goes_on_from_where_it_was_and_ends_early_when_flat() -> None:
    plateau = {"detector": "patience", "window": 2}
    controller = controller_of(make_recipe({"regime": "sequential", "plateau": plateau}))
    found = advances(controller, range(0, 100, 4), a=1.0, b=1.0, c=1.0, d=1.0)
    assert [(stage, rule, reset) for _, stage, rule, reset in found] == [(n, "plateau", False) for n in (1, 2, 3)]
    assert found[0][0] == 8 and sum(controller.weights.values()) == 1.0 and controller.weights["d"] == 1.0


def test_sequential_hands_on_what_a_stage_leaves_over() -> None:
    """With `a` done early, `b` may run to where both would have ended."""
    plateau = {"detector": "patience", "window": 2, "min_gain": 0.001}
    controller = controller_of(make_recipe({"regime": "sequential", "plateau": plateau}))
    for step in (0, 2, 4):
        controller.observe(at(step, a=1.0, b=9.0, c=9.0, d=9.0))
    assert controller.stage == 1 and controller.due_step == 30


def test_a_strict_cycle_goes_round_until_the_budget_ends() -> None:
    recipe = explicit().schedule.model_copy(update={"regime": "gst_strict_cycle"})
    controller = controller_of(explicit().model_copy(update={"schedule": recipe}))
    pools = [controller.plan.stages[n].pool for n in range(3)]
    assert pools == [("a", "b"), ("c",), ("d",)]  # no union
    found = []
    for step in range(100):
        if step % 10 == 0 or step == controller.due_step:
            loss = 9 * 0.97**step
            decision = controller.observe(at(step, a=loss, b=loss, c=loss, d=loss))
            if decision.advanced:
                found.append((step, decision.stage, decision.reason["rule"]))
    # A visit takes half of the group's share: 15, 15 and 20 steps of 100.
    assert found == [(15, 1, "visit share"), (30, 2, "visit share"), (50, 0, "visit share"), (65, 1, "visit share"),
                     (80, 2, "visit share")]  # fmt: skip
    assert controller.lr_factor(60) == 1.0


def test_limits_may_differ_by_stage() -> None:
    controller = controller_of(explicit({"max_share": [0.1, 0.4]}, detector="none"))
    found = advances(controller, range(0, 100, 5), a=1.0, b=1.0, c=1.0, d=1.0)
    assert [(step, stage) for step, stage, *_ in found] == [(10, 1), (50, 2)]


def test_a_flat_stage_with_missing_scores_goes_on() -> None:
    controller = controller_of(explicit(detector="slope", window=3))
    for step in range(0, 60, 10):
        decision = controller.observe(at(step, a=1.0, b=float("nan") if step == 50 else 1.0, c=1.0, d=1.0))
        json.dumps(controller.state_dict(), allow_nan=False)
        json.dumps(decision.reason, allow_nan=False)
        if step == 20:
            assert decision.advanced

"""Every regime as a plan of stages."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import parse_recipe
from pipeline.config.schedule import REGIME_ALIASES, REGIMES, ScheduleConfig
from pipeline.errors import ConfigError
from pipeline.schedule import StagePlan, build_controller, build_plan
from pipeline.schedule.regimes import clusters
from pipeline.schedule.tasks import by_level, by_level_then_clusters
from tests.unit.schedule.builders import DOMAINS, SIZES, make_recipe

TASKS = {
    "a": {"transcript": 60, "emotion": 40},
    "b": {"emotion": 300, "gender": 100},
    "c": {"caption": 900},
    "d": {"presence": 200, "caption": 1400},
}
BY_DOMAIN = {"regime": "gst", "grouping": "domain", "order": "progressive"}


def plan_of(regime: str, **schedule: Any) -> StagePlan:
    return build_plan(make_recipe({**BY_DOMAIN, **schedule, "regime": regime}), SIZES, DOMAINS)


def test_every_regime_has_a_plan_and_a_controller_and_every_alias_leads_to_one() -> None:
    assert set(REGIME_ALIASES.values()) <= set(REGIMES)
    assert not set(REGIME_ALIASES) & set(REGIMES)
    for regime in set(REGIMES) - {"tpc", "tpc_ads"}:  # these go by tasks, see below
        plan = plan_of(regime)
        assert plan.regime == regime and plan.names == sorted(SIZES)
        assert all(sum(stage.weights.values()) == pytest.approx(1) for stage in plan.stages)
        weights = build_controller(plan, make_recipe({**BY_DOMAIN, "regime": regime})).weights
        assert sum(weights.values()) == pytest.approx(1) and list(weights) == sorted(SIZES)


@pytest.mark.parametrize(
    ("written", "regime"),
    [
        ("Mix-all", "mix_all"), ("Parallel", "mix_all"), ("SM", "mix_all"), ("Individual", "individual"),
        ("Strict cycle sequential", "gst_strict_cycle"), ("Progressive", "gst"), ("gst", "gst"),
    ],
)  # fmt: skip
def test_the_papers_names_are_accepted(written: str, regime: str) -> None:
    assert make_recipe({"regime": written}).schedule.regime == regime


def test_the_papers_names_of_orders_and_hybrids() -> None:
    assert ScheduleConfig(order="Reverse progressive").order == "reverse"  # type: ignore[arg-type]
    assert ScheduleConfig(regime="TPC+ADS").regime == "tpc_ads"


def test_groups_alone_and_groups_that_stay() -> None:
    alone, stay = plan_of("gst_strict_cycle"), plan_of("gst")
    assert [stage.pool for stage in alone.stages] == [("a", "b"), ("c",), ("d",)] and alone.cycle
    assert [len(stage.pool) for stage in stay.stages] == [2, 3, 4] and not stay.cycle
    assert sum(stage.visit_share or 0 for stage in alone.stages) == pytest.approx(1 / 2)  # rounds: 2


def test_sequential_order_is_by_name_or_as_the_recipe_says() -> None:
    order = {"progressive": ["a", "b", "c", "d"], "reverse": ["d", "c", "b", "a"]}
    for name, expected in order.items():
        assert [stage.pool[0] for stage in plan_of("sequential", order=name).stages] == expected
    shuffled = [stage.pool[0] for stage in plan_of("sequential", order="random", seed=3).stages]
    assert sorted(shuffled) == ["a", "b", "c", "d"] and shuffled != ["a", "b", "c", "d"]
    stated = plan_of("sequential", grouping="explicit", explicit=[["d"], ["a", "c"], ["b"]])
    assert [stage.pool[0] for stage in stated.stages] == ["d", "a", "c", "b"]


def test_stages_that_could_never_end_are_refused() -> None:
    with pytest.raises(ConfigError, match="never end"):
        plan_of("gst", plateau={"detector": "none"})
    assert plan_of("gst", plateau={"detector": "none"}, stage={"max_share": 0.3})
    assert plan_of("individual", plateau={"detector": "none"})
    assert plan_of("gst_strict_cycle", plateau={"detector": "none"})
    assert plan_of("mix_all", plateau={"detector": "none"})


def test_a_rate_that_falls_all_the_time_does_not_go_with_stages() -> None:
    recipe = make_recipe({**BY_DOMAIN, "regime": "gst_adaptive"}, lr_schedule={"kind": "cosine"})
    with pytest.raises(ConfigError, match="tied to stages"):
        build_plan(recipe, SIZES, DOMAINS)
    free = {**BY_DOMAIN, "regime": "gst_adaptive", "adaptive": {"lr": {"enabled": False}}}
    assert build_plan(make_recipe(free, lr_schedule={"kind": "cosine"}), SIZES, DOMAINS)


def test_levels_of_tasks_bring_units_in() -> None:
    plan = by_level(ScheduleConfig(), TASKS)
    assert [stage.entering for stage in plan.stages] == [("a@0", "d@0"), ("a@1", "b@1"), ("c@2", "d@2")]
    assert plan.stages[2].pool == ("a@0", "d@0", "a@1", "b@1", "c@2", "d@2")
    assert {stage.source for stage in plan.stages} == {"units"}
    # By the root of the unit's own questions: 60 and 200.
    assert plan.stages[0].weights["d@0"] / plan.stages[0].weights["a@0"] == pytest.approx((200 / 60) ** 0.5)


def test_a_level_is_judged_on_datasets_that_are_mostly_in_it() -> None:
    plan = by_level(ScheduleConfig(), TASKS)
    # d has 200 of 1,600 questions in level 0, a 60 of 100; all of a and b are in by level 1.
    assert [stage.judged for stage in plan.stages] == [("a",), ("a", "b"), ("a", "b", "c", "d")]
    hardly = by_level(ScheduleConfig(), {"d": TASKS["d"]})
    assert hardly.stages[0].judged == ("d",)  # nobody is mostly in it, so all that are in it count


def test_levels_can_be_trained_alone_and_empty_ones_are_left_out() -> None:
    config = ScheduleConfig.model_validate({"tpc": {"accumulate": False, "levels": [["x"], ["emotion", "gender"]]}})
    plan = by_level(config, {"b": TASKS["b"]})
    assert [stage.pool for stage in plan.stages] == [("b@1",)]
    alone = by_level(ScheduleConfig.model_validate({"tpc": {"accumulate": False}}), TASKS)
    assert alone.stages[2].pool == ("c@2", "d@2")


def test_a_task_without_a_level_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        by_level(ScheduleConfig(), {"a": {"captoin": 5}})
    assert caught.value.got == "captoin" and "caption" in str(caught.value.hint)


def test_a_task_in_two_levels_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice: gender"):
        make_recipe({"tpc": {"levels": [["gender"], ["gender", "caption"]]}})


def test_levels_then_clusters_switch_where_the_recipe_says() -> None:
    plan = by_level_then_clusters(ScheduleConfig(), TASKS, SIZES)
    assert [stage.source for stage in plan.stages] == ["units", "units", "units", "clusters"]
    assert [stage.ends_at for stage in plan.stages] == [pytest.approx(n / 6) for n in (1, 2, 3)] + [None]
    assert [stage.by_plateau for stage in plan.stages] == [True, True, False, True]
    assert plan.stages[3].pool == tuple(sorted(SIZES))
    flat = by_level_then_clusters(ScheduleConfig.model_validate({"tpc": {"switch": "plateau"}}), TASKS, SIZES)
    assert all(stage.ends_at is None and stage.by_plateau for stage in flat.stages)
    assert clusters(ScheduleConfig(), SIZES).stages == plan.stages[3:]


def test_the_default_levels_cover_the_tasks_of_the_mini_corpora() -> None:
    tasks = ["caption", "category", "composer", "emotion", "energy", "ensemble", "gender", "instrument",
             "instrument_count", "pitch", "presence", "qa_closed", "qa_open", "qa_whole", "scene", "sources", "speed",
             "style", "tags", "transcript"]  # fmt: skip
    units = by_level(ScheduleConfig(), {"x": dict.fromkeys(tasks, 1)}).stages[-1].pool
    assert units == ("x@0", "x@1", "x@2")


def test_groups_become_a_chain_of_prerequisites() -> None:
    assert plan_of("mastering_rate").requires == {"c": ("a", "b"), "d": ("c",)}
    over = {"over": "datasets", "requires": {"d": ["a"]}}
    assert plan_of("mastering_rate", mastering=over).requires == {"d": ("a",)}


@pytest.mark.parametrize(
    ("mastering", "message"),
    [
        ({"requires": {"d": ["e"]}}, "unknown dataset"),
        ({"targets": {"e": 1.0}}, "unknown dataset"),
        ({"requires": {"a": ["b"], "b": ["a"]}}, "circle"),
    ],
)
def test_prerequisites_that_cannot_be_met_are_refused(mastering: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_of("mastering_rate", mastering={"over": "datasets", **mastering})


def test_an_unknown_key_of_a_new_section_is_an_error() -> None:
    tree = {"arm": "x", "out": "o", "model": {"path": "m"}, "data": {"shards": "s"}, "train": {"max_steps": 1}}
    with pytest.raises(ConfigError) as caught:
        parse_recipe({**tree, "schedule": {"adaptive": {"saturation": {"flor": 0.1}}}}, source="test")
    assert caught.value.hint == "did you mean `floor`?"

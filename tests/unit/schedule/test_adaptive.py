"""The adaptive controller, part by part."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pipeline.affinity.estimator import corrected_gram
from pipeline.config.schedule import AdvanceConfig, RegroupConfig, SaturationConfig
from pipeline.schedule import build_plan
from pipeline.schedule.adaptive.controller import AdaptiveController
from pipeline.schedule.adaptive.cost import per_second, seconds_per_token
from pipeline.schedule.adaptive.forecast import pool_gain
from pipeline.schedule.adaptive.opportunity import worth_entering
from pipeline.schedule.adaptive.regroup import WindowEvidence, regroup
from pipeline.schedule.adaptive.saturation import Saturation, lowered
from pipeline.schedule.state import CurvesByDataset
from pipeline.types import EvalPoint
from tests.unit.schedule.builders import SIZES, at, make_recipe, spent, window

OFF: dict[str, Any] = {
    "saturation": {"enabled": False}, "advance": {"enabled": False}, "lr": {"enabled": False}, "policies": [],
    "regroup": {"enabled": False},
}  # fmt: skip
GROUPS = [["a", "b"], ["c"], ["d"]]


def controller_of(adaptive: dict[str, Any], train: dict[str, Any] | None = None, **schedule: Any) -> AdaptiveController:
    """Every part that is not named is off."""
    tree = {"regime": "gst_adaptive", "grouping": "explicit", "explicit": GROUPS, "adaptive": {**OFF, **adaptive}}
    recipe = make_recipe({**tree, **schedule}, **(train or {}))
    return AdaptiveController(build_plan(recipe, SIZES, {}), recipe)


def power_law(n: int, limit: float = 0.4, exponent: float = 0.8) -> np.ndarray[Any, Any]:
    return np.asarray(limit + (1 - limit) * (1 + np.arange(n)) ** -exponent)


# Saturation control


def follow(saturation: Saturation, values: list[float]) -> list[list[str]]:
    losses: CurvesByDataset = {"a": []}
    named = []
    for value in values:
        losses["a"].append(value)
        saturation.update(losses)
        named.append(saturation.names)
    return named


def test_a_dataset_is_saturated_on_evidence_and_returns_when_it_is_forgotten() -> None:
    saturation = Saturation(SaturationConfig())
    saturation.enter(["a"], 0)
    falling, flat, rising = [2 * 0.9**t for t in range(10)], [0.7] * 10, [0.71, 0.75, 0.8]
    named = follow(saturation, [*falling, *flat, *rising])
    assert named[9] == [] and named[19] == ["a"]
    assert named[20] == ["a"] and named[22] == []  # one evaluation alone does not return it, two do


def test_a_slowly_improving_dataset_is_not_saturated_where_patience_would_say_so() -> None:
    saturation = Saturation(SaturationConfig())
    saturation.enter(["a"], 0)
    rng = np.random.default_rng(0)
    slow = [2 * 0.99**t * (1 + 0.01 * rng.standard_normal()) for t in range(40)]
    assert follow(saturation, slow)[-1] == []


def test_the_floor_takes_from_the_saturated_and_gives_to_the_others() -> None:
    shares = {"a": 0.4, "b": 0.4, "c": 0.2}
    assert lowered(shares, ["a"], 0.1) == pytest.approx({"a": 0.1, "b": 0.6, "c": 0.3})
    assert lowered(shares, ["c"], 0.3)["c"] == 0.2  # a floor never raises
    assert lowered(shares, [], 0.1) == shares
    assert lowered(shares, ["a", "b", "c"], 0.1) == shares  # all alike: nobody is held up


def test_a_saturated_dataset_falls_to_a_tenth_of_an_equal_share_in_the_pool() -> None:
    evidence = {"detector": "slope", "window": 3, "min_gain": 0.01, "confidence": 0.8}
    controller = controller_of({"saturation": {"evidence": evidence}}, plateau={"detector": "patience", "window": 50})
    for step in range(0, 40, 10):
        decision = controller.observe(at(step, a=1.0, b=3 - step / 20, c=9.0, d=9.0))
    assert decision.reason["saturated"] == ["a"]
    assert decision.weights == pytest.approx({"a": 1 / 40, "b": 39 / 40, "c": 0, "d": 0})
    for step in (40, 50):
        assert decision.reason["saturated"] == ["a"]
        decision = controller.observe(at(step, a=1.2, b=1.0, c=9.0, d=9.0))
    assert decision.reason["saturation"]["a"]["saturated"] is False and decision.weights["a"] == pytest.approx(1 / 3)


# Forecast and opportunity


@pytest.mark.parametrize("forecast", ["power_law", "slope"])
def test_the_gain_of_a_power_law_is_its_derivative(forecast: str) -> None:
    losses = power_law(30)
    gain = pool_gain(np.arange(30.0) * 100, losses, AdvanceConfig(forecast=forecast, window=5))  # type: ignore[arg-type]
    true = 0.6 * 0.8 * 30 ** (-1.8) / 100 / losses[-1]
    assert gain is not None and gain.upper >= gain.now
    assert gain.now == pytest.approx(true, rel=0.01 if forecast == "power_law" else 0.25)


@pytest.mark.parametrize("forecast", ["power_law", "slope"])
def test_the_upper_bound_covers_the_true_gain_as_often_as_it_says(forecast: str) -> None:
    rng = np.random.default_rng(1)
    config = AdvanceConfig(forecast=forecast, window=6, confidence=0.9)  # type: ignore[arg-type]
    truth = power_law(15)
    true = 0.6 * 0.8 * 15 ** (-1.8) / truth[-1]
    bounds = [pool_gain(np.arange(15.0), truth * (1 + 0.01 * rng.standard_normal(15)), config) for _ in range(200)]
    assert np.mean([bound is not None and bound.upper >= true for bound in bounds]) >= 0.85


def test_too_few_evaluations_or_a_clock_that_stands_still_say_nothing() -> None:
    config = AdvanceConfig(window=5)
    assert pool_gain(np.arange(4.0), power_law(4), config) is None
    assert pool_gain(np.zeros(9), power_law(9), config) is None
    losses = power_law(6)
    losses[2] = np.nan
    assert pool_gain(np.arange(6.0), losses, config) is not None


def enters(pool: np.ndarray[Any, Any], group: np.ndarray[Any, Any], **options: Any) -> tuple[bool, dict[str, Any]]:
    losses: CurvesByDataset = {"a": list(3 * pool), "b": list(5 * pool), "c": list(7 * group)}
    config = AdvanceConfig(**options.pop("config", {}))
    arguments = {"pool": ["a", "b"], "group": ["c"], "since": 0, "cost_ratio": 1.0, **options}
    return worth_entering(losses, [100.0 * t for t in range(len(pool))], config=config, **arguments)


def test_a_group_enters_when_it_is_worth_more_than_the_pool() -> None:
    still = np.ones(40)
    first = next(t for t in range(5, 40) if enters(power_law(t), still[:t])[0])
    assert 5 <= first < 12  # long before a plateau: the pool must grow early
    _, numbers = enters(power_law(20), still[:20])
    falls = np.log(power_law(20)[0] / power_law(20)[-1])
    assert numbers["predicted_gain"] == pytest.approx(2 * falls / 1900)
    assert numbers["predicted_gain"] > numbers["pool_gain_upper"] > numbers["pool_gain"] > 0


def test_a_group_that_gained_all_by_transfer_waits() -> None:
    assert not enters(power_law(20), power_law(20))[0]


def test_a_steady_pool_keeps_others_out() -> None:
    """It gains now what it gained from the first: there is nothing better to do with a token."""
    steady = 0.95 ** np.arange(20)
    assert not enters(steady, np.ones(20), config={"forecast": "slope"})[0]


def test_a_dear_group_enters_later_than_a_cheap_one() -> None:
    still = np.ones(40)
    dear, cheap = (
        next(t for t in range(5, 40) if enters(power_law(t), still[:t], cost_ratio=ratio)[0]) for ratio in (0.25, 1.0)
    )
    assert dear > cheap


def test_losses_of_zero_and_missing_ones_do_no_harm() -> None:
    controller = controller_of({"advance": {"enabled": True}, "saturation": {"enabled": True}})
    for step in range(0, 100, 5):
        a = float("nan") if step == 30 else 0.0 if step > 10 else 2.0
        decision = controller.observe(at(step, a=a, b=0.0, c=float("nan"), d=0.0))
        json.dumps([decision.reason, controller.state_dict()], allow_nan=False)


# Cost


def test_seconds_per_token_are_those_of_the_mixture() -> None:
    costs = spent(a=1.0, b=3.0)
    assert seconds_per_token(costs, {"a": 0.5, "b": 0.5}) == pytest.approx(0.2)
    assert seconds_per_token(costs, {"a": 1.0, "c": 1.0}) is None


def test_shares_per_second_favour_the_cheap_and_keep_the_unknown() -> None:
    shares = per_second({"a": 0.4, "b": 0.4, "c": 0.2}, spent(a=1.0, b=3.0))
    assert shares == pytest.approx({"a": 0.6, "b": 0.2, "c": 0.2})


def test_costs_reach_the_weights_only_when_they_are_asked_for() -> None:
    for aware in (False, True):
        controller = controller_of({"cost_aware": aware})
        point = at(0, a=1.0, b=1.0, c=1.0, d=1.0)
        decision = controller.observe(EvalPoint(0, 0, 0, point.scores, spent(a=1.0, b=4.0)))
        assert decision.weights["a"] == pytest.approx(2 / 3 if aware else 1 / 3)


# Learning rate


def test_the_rate_rewarms_at_a_switch_and_all_data_come_in_at_the_final_decay() -> None:
    train = {"lr_schedule": {"warmup_steps": 0, "decay_share": 0.3}}
    lr = {"enabled": True, "rewarm_steps": 10, "rewarm_floor": 0.2}
    controller = controller_of({"lr": lr}, train, plateau={"detector": "patience", "window": 2})
    assert controller.due_step == 70
    rules = {}
    for step in (0, 20, 40, 60, 70, 80):
        loss = 1.0 if step <= 40 else 1 - step / 200
        decision = controller.observe(at(step, a=loss, b=loss, c=loss, d=loss))
        rules[step] = decision.reason["rule"]
        json.dumps(decision.reason, allow_nan=False)
    assert rules[40] == "plateau" and rules[70] == "final decay" and set(decision.pool) == set("abcd")
    assert controller.lr_factor(41) == pytest.approx(0.2 + 0.8 * 0.1) and controller.lr_factor(50) == 1.0
    assert controller.lr_factor(71) == 1.0 and controller.lr_factor(100) == pytest.approx(1 / 30)  # no climb before it


def test_in_the_final_decay_nobody_is_held_at_the_floor() -> None:
    evidence = {"detector": "slope", "window": 3, "min_gain": 0.01, "confidence": 0.8}
    saturation = {"evidence": evidence}
    controller = controller_of({"saturation": saturation, "lr": {"enabled": True}}, plateau={"window": 50})
    for step in (0, 20, 40, 60):
        held = controller.observe(at(step, a=1.0, b=3 - step / 40, c=9.0, d=9.0)).weights
    assert held["a"] == pytest.approx(1 / 40)
    free = controller.observe(at(70, a=1.0, b=1.0, c=9.0, d=9.0)).weights
    assert free == pytest.approx({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4})


# Weights from gradients


def test_gradients_move_the_pool_only_and_what_they_found_stays_when_it_grows() -> None:
    plateau = {"detector": "patience", "window": 2}
    controller = controller_of({"policies": ["pike", "gram"]}, plateau=plateau, reweight={"max_change": 0.2})
    before = controller.weights
    everybody = window({"a": [5.0, 0], "b": [0, 0.1], "c": [1.0, 1], "d": [9.0, 9]})
    decision = controller.observe_gradients(50, everybody)
    assert decision is not None and decision.reason["seen"] == 2 and decision.reason["policies"] == ["pike", "gram"]
    assert decision.weights["a"] - before["a"] == pytest.approx(0.2) and decision.weights["c"] == 0
    for step in (0, 10, 20):
        grown = controller.observe(at(step, a=1.0, b=1.0, c=1.0, d=1.0)).weights
    assert grown["a"] / grown["b"] == pytest.approx(decision.weights["a"] / decision.weights["b"])
    assert grown["c"] == pytest.approx(0.3 / 0.6)  # as its size says


# Regrouping


def evidence_of(truth: dict[str, list[float]], windows: int = 6, noise: float = 0.3) -> WindowEvidence:
    evidence = WindowEvidence()
    for seed in range(windows):
        evidence.add(corrected_gram(window(truth, noise=noise, seed=seed)))
    return evidence


TRUTH = {"a": [1.0, 0, 0], "b": [1.0, 0.1, 0], "c": [0, 1.0, 0.2], "d": [0.1, 1.0, 0], "e": [3.0, 0, 1.0]}


def test_clear_evidence_makes_new_groups_of_what_is_still_to_come() -> None:
    wrong = [["a", "c"], ["b", "d"]]
    groups, said = regroup(wrong, {"e": 1.0}, evidence_of(TRUTH), RegroupConfig())
    assert said["regrouped"] and said["gap_gained"] > said["lower_bound"] > said["needed"] > 0
    assert groups == [["a", "b"], ["c", "d"]]  # a and b point where the pool wants to go


@pytest.mark.parametrize(
    ("groups", "windows", "config"),
    [
        ([["a", "b"], ["c", "d"]], 6, RegroupConfig()),  # right already
        ([["a", "c"], ["b", "d"]], 2, RegroupConfig()),  # too little was seen
        ([["a", "c"], ["b", "d"]], 6, RegroupConfig(margin=50.0)),  # not better by enough
        ([["a", "c", "b", "d"]], 6, RegroupConfig()),  # one group can only enter
    ],
)
def test_groups_stay_without_clear_evidence(groups: list[list[str]], windows: int, config: RegroupConfig) -> None:
    found, said = regroup(groups, {"e": 1.0}, evidence_of(TRUTH, windows), config)
    assert found == groups and not said["regrouped"]


def test_noise_alone_does_not_regroup() -> None:
    noise = {name: [0.0] * 16 for name in "abcdef"}
    changed = 0
    for seed in range(40):
        evidence = WindowEvidence()
        for number in range(8):
            evidence.add(corrected_gram(window(noise, noise=1.0, seed=100 * seed + number)))
        changed += regroup([["a", "c", "e"], ["b", "d"]], {"f": 1.0}, evidence, RegroupConfig())[1]["regrouped"]
    assert changed <= 4  # one in twenty is what the confidence allows


def test_who_has_entered_is_never_dropped_and_the_others_are_explored() -> None:
    names = sorted(TRUTH)
    tree = {"regime": "gst_adaptive", "grouping": "explicit", "explicit": [["e"], ["a", "c"], ["b", "d"]],
            "plateau": {"detector": "patience", "window": 2}}  # fmt: skip
    recipe = make_recipe({**tree, "adaptive": {**OFF, "regroup": {"enabled": True, "explore": 0.1}}})
    controller = AdaptiveController(build_plan(recipe, dict.fromkeys(names, 100), {}), recipe)
    assert controller.weights == pytest.approx({"e": 0.9, **dict.fromkeys("abcd", 0.025)})
    for seed in range(6):
        assert controller.observe_gradients(10 * seed, window(TRUTH, noise=0.3, seed=seed)) is None
    for step in (0, 10, 20):
        decision = controller.observe(at(step, **dict.fromkeys(names, 1.0)))
    assert decision.advanced and decision.pool == ("e", "a", "b") and decision.reason["regroup"]["regrouped"]
    assert decision.weights["c"] == 0  # one group is left: nothing to explore for


# The whole


def test_every_part_can_be_switched_off() -> None:
    """Then it is gst with a plateau: same advances, same weights."""
    plateau = {"detector": "patience", "window": 2}
    controller = controller_of({}, plateau=plateau)
    for step in range(0, 100, 10):
        decision = controller.observe(at(step, a=1.0, b=1.0, c=1.0, d=1.0))
        assert controller.observe_gradients(step, window({name: [1.0] for name in "abcd"})) is None
    assert decision.pool == ("a", "b", "c", "d") and controller.due_step is None
    assert decision.weights == pytest.approx({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4})


def test_limits_of_stages_hold_for_it_too() -> None:
    controller = controller_of({"advance": {"enabled": True}}, stage={"max_share": 0.2, "min_tokens": 100})
    assert controller.due_step == 20
    decision = controller.observe(at(20, a=1.0, b=1.0, c=1.0, d=1.0))
    assert decision.advanced and decision.reason["rule"] == "max_share" and decision.reason["entering"] == ["c"]

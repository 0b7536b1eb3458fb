"""Weights that follow gradients or losses, against slow references written from the formulas."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.schedule import MasteringConfig, PikeConfig
from pipeline.data.mixture import with_floor
from pipeline.schedule import build_plan
from pipeline.schedule.policies.gradients import seen_gram
from pipeline.schedule.policies.gram import gram_shares
from pipeline.schedule.policies.mastering import Prerequisites, attention, learning_progress, mastering_rates
from pipeline.schedule.policies.pike import pike_shares
from pipeline.schedule.shares import retarget, step_towards
from pipeline.schedule.state import CurvesByDataset
from pipeline.schedule.weighted import WeightController
from tests.unit.schedule.builders import DOMAINS, SIZES, at, make_recipe, window

NAMES = sorted(SIZES)
APART = {name: np.eye(4)[i] * (i + 1) for i, name in enumerate(NAMES)}  # d's gradient is the largest
positive = st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=8)


def as_shares(values: list[float]) -> dict[str, float]:
    return {f"d{i}": value / sum(values) for i, value in enumerate(values)}


def controller_of(regime: str, **schedule: Any) -> WeightController:
    recipe = make_recipe({"regime": regime, "grouping": "domain", "order": "progressive", **schedule})
    return WeightController(build_plan(recipe, SIZES, DOMAINS), recipe)


@given(positive, st.floats(0, 0.5))
def test_floors_hold_the_total_stays_and_a_second_time_changes_nothing(values: list[float], floor: float) -> None:
    shares = as_shares(values)
    floored = with_floor(shares, floor)
    assert sum(floored.values()) == pytest.approx(1)
    assert min(floored.values()) >= min(floor, 1 / len(shares)) - 1e-12
    assert with_floor(floored, floor) == pytest.approx(floored)
    order = sorted(shares, key=lambda name: shares[name])
    assert [floored[name] for name in order] == sorted(floored.values())


@given(positive, positive, st.floats(0.01, 1))
def test_no_more_than_the_cap_changes_hands(first: list[float], second: list[float], cap: float) -> None:
    n = min(len(first), len(second))
    old, target = as_shares(first[:n]), as_shares(second[:n])
    new = step_towards(old, target, cap)
    assert sum(new.values()) == pytest.approx(1) and min(new.values()) >= 0
    assert sum(abs(new[name] - old[name]) for name in old) / 2 <= cap + 1e-12
    assert step_towards(old, target, 1.0) == pytest.approx(target)


def test_who_was_not_seen_keeps_its_share() -> None:
    shares = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}
    new = retarget(shares, ["d", "a"], lambda held: held[::-1])
    assert new == pytest.approx({"a": 0.4, "b": 0.2, "c": 0.3, "d": 0.1})


def test_gram_is_the_softmax_of_the_normalised_gain() -> None:
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((5, 3))
    p = rng.dirichlet(np.ones(5))
    gain = [sum(float(gradients[i] @ gradients[j]) * p[j] for j in range(5)) for i in range(5)]
    norm = math.sqrt(sum(value**2 for value in gain))
    powers = [math.exp(2.0 * value / norm) for value in gain]
    expected = [power / sum(powers) for power in powers]
    assert gram_shares(p, gradients @ gradients.T, 2.0) == pytest.approx(expected)
    assert gram_shares(p, 1e9 * gradients @ gradients.T, 2.0) == pytest.approx(expected)  # scale does not count
    assert gram_shares(p, np.zeros((5, 5)), 2.0) == pytest.approx(p)


@pytest.mark.parametrize("relative", [True, False])
def test_pike_multiplies_by_the_exponential_of_signal_less_noise(relative: bool) -> None:
    w, norm_sq, noise = np.array([0.5, 0.3, 0.2]), np.array([2.0, -0.5, 1.0]), np.array([8.0, 4.0, 0.0])
    config = PikeConfig(zeta1=0.3, zeta2=0.05, relative=relative)
    scale = (2.0 + 0.0 + 1.0) / 3 if relative else 1.0
    grown = [w[k] * math.exp(0.3 * max(norm_sq[k], 0) / scale - 0.05 / (2 * 4) * noise[k] / scale) for k in range(3)]
    assert pike_shares(w, norm_sq, noise, 4, config) == pytest.approx([value / sum(grown) for value in grown])


def test_pike_survives_gradients_of_any_size() -> None:
    w = np.full(3, 1 / 3)
    huge = pike_shares(w, np.array([1e6, 0, 0]), np.array([0, 1e9, 0]), 4, PikeConfig(relative=False))
    assert np.isfinite(huge).all() and huge.sum() == pytest.approx(1)
    assert pike_shares(w, np.zeros(3), np.ones(3), 4, PikeConfig()) == pytest.approx(w)


def test_a_window_speaks_only_of_datasets_with_two_micro_batches() -> None:
    stats = window(APART)
    few = stats.select(["a", "b"])
    estimate = seen_gram(few, {"a": 0.5, "b": 0.2, "c": 0.3})
    assert estimate is not None and estimate.datasets == ["a", "b"]
    assert seen_gram(few, {"a": 1.0}) is None
    assert seen_gram(window({"a": [1.0], "b": [1.0]}, n=1), {"a": 0.5, "b": 0.5}) is None


@pytest.mark.parametrize("regime", ["gram", "pike"])
def test_a_larger_gradient_gains_weight_step_by_step(regime: str) -> None:
    controller = controller_of(regime, weights={"kind": "uniform"}, reweight={"max_change": 0.05, "floor": 0.2})
    before = controller.weights
    for step in range(50, 1050, 50):
        decision = controller.observe_gradients(step, window(APART, seed=step))
        assert decision is not None and not decision.advanced
        assert decision.reason["changed"] <= 0.05 + 1e-12
        assert sum(decision.weights.values()) == pytest.approx(1)
        assert min(decision.weights.values()) >= 0.2 / 4 - 1e-12
    assert decision.weights["d"] > before["d"] > decision.weights["a"]


def test_datasets_without_gradients_keep_their_share_in_a_window() -> None:
    controller = controller_of("gram")
    before = controller.weights
    decision = controller.observe_gradients(50, window({"a": [1.0, 0.0], "b": [0.0, 5.0]}))
    assert decision is not None
    assert {name: decision.weights[name] for name in "cd"} == pytest.approx({name: before[name] for name in "cd"})
    assert decision.weights["b"] > before["b"]


def test_equal_windows_give_equal_weights() -> None:
    first, second = controller_of("pike"), controller_of("pike")
    for controller in (first, second):
        controller.observe_gradients(50, window(APART))
    assert first.weights == second.weights


def test_mastering_rates_run_from_the_first_loss_to_the_target() -> None:
    config = MasteringConfig(window=2, mastered_at=0.5, targets={"c": 1.0})
    losses: dict[str, list[float | None]] = {
        "a": [4.0],
        "b": [4.0, 3.0, 3.0],
        "c": [4.0, 1.0, 1.0],
        "d": [4.0, 1.0, 0.5],
    }
    rates = mastering_rates({**losses, "e": [None]}, config)
    assert rates == pytest.approx({"a": 0.0, "b": 0.5, "c": 1.0, "d": 1.0, "e": 0.0})
    forgotten: CurvesByDataset = {"d": [4.0, 1.0, 0.5, 2.0, 2.75]}
    assert mastering_rates(forgotten, config)["d"] == pytest.approx((4 - 2.375) / (4 - 0.75))
    assert learning_progress(losses, config) == pytest.approx({"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.5})


def test_attention_follows_the_formula() -> None:
    """A chain a -> b -> c with one side branch, attention written out dataset by dataset."""
    config = MasteringConfig(power=2, potential=0.5, to_predecessors=0.2, to_successors=0.1)
    graph = Prerequisites.of("abcd", {"b": ["a"], "c": ["b", "d"]})
    rates = {"a": 0.9, "b": 0.5, "c": 0.1, "d": 0.6}
    progress = {"a": 0.1, "b": 0.4, "c": 0.0, "d": 0.2}
    first = {
        "a": 1.0 * (0.5 * 0.25 + 0.5 * 0.1) * (1 - 0.5),
        "b": 0.9**2 * (0.5 * 1.0 + 0.5 * 0.5) * (1 - 0.1),
        "c": 0.5**2 * (0.5 * 0.0 + 0.5 * 0.9) * 1.0,  # the least mastered of a, b and d
        "d": 1.0 * (0.5 * 0.5 + 0.5 * 0.4) * (1 - 0.1),
    }
    assert graph.order.index("c") == 3
    c = first["c"] * 0.8  # to b and d
    b, d = first["b"] + first["c"] * 0.1, first["d"] + first["c"] * 0.1
    given_up, b = b * 0.2, b * 0.8  # to a
    expected = {"a": first["a"] + given_up, "b": b * 0.9, "c": c + b * 0.1 + d * 0.1, "d": d * 0.9}
    expected["b"], expected["a"] = expected["b"] + expected["a"] * 0.1, expected["a"] * 0.9
    found = attention(rates, progress, graph, config)
    assert found == pytest.approx(expected) and sum(found.values()) == pytest.approx(sum(first.values()))


def test_attention_moves_on_when_a_group_is_mastered() -> None:
    controller = controller_of("mastering_rate", mastering={"window": 2}, reweight={"max_change": 0.3})
    for step in range(6):
        early = controller.observe(at(step, a=4.0 - 0.1 * step, b=4.0, c=4.0, d=4.0))
    for step in range(6, 40):
        late = controller.observe(at(step, a=1.0, b=1.0, c=4.0, d=4.0))
    assert early.weights["a"] > 5 * early.weights["c"]
    assert late.weights["c"] > 3 * late.weights["a"] and late.weights["c"] > late.weights["d"]
    assert all(math.isfinite(value) for value in late.weights.values()) and sum(late.weights.values()) == pytest.approx(
        1
    )


def test_when_all_is_mastered_the_first_weights_return() -> None:
    controller = controller_of("mastering_rate", mastering={"window": 2})
    for step in range(60):
        loss = 4.0 if step < 5 else 0.5
        decision = controller.observe(at(step, a=loss, b=loss, c=loss, d=loss))
    assert decision.weights == pytest.approx(dict(zip("abcd", (0.1, 0.2, 0.3, 0.4), strict=True)))
    json.dumps(controller.state_dict(), allow_nan=False)

"""A run that was killed decides like one that was not: on recorded curves, for every controller, at every moment."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.config import Recipe
from pipeline.errors import CheckpointError
from pipeline.schedule import StagePlan, build_controller, build_plan
from pipeline.schedule.tasks import by_level
from pipeline.types import Controller, Decision, EvalPoint
from tests.unit.schedule.builders import make_recipe, points_of, spent, window

POINTS = {file: points_of(f"{file}.jsonl") for file in ("mix_all", "gst_g3_short")}
NAMES = sorted(POINTS["mix_all"][0].scores)
SIZES = {name: 100 * (n + 1) for n, name in enumerate(NAMES)}
DOMAINS = {name: ("speech", "music", "sound")[n % 3] for n, name in enumerate(NAMES)}
EAGER = {"detector": "paired", "window": 4, "max_window": 8, "min_gain": 0.05, "confidence": 0.6}
SEEN_EARLY = {
    "saturation": {"evidence": {"detector": "slope", "window": 3, "min_gain": 0.03, "confidence": 0.6}},
    "advance": {"window": 4},
    "regroup": {"min_windows": 3, "margin": 0.0, "explore": 0.1},
    "cost_aware": True,
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "mix_all": {},
    "individual": {},
    "sequential": {"plateau": {"detector": "patience", "window": 2, "min_gain": 0.1}},
    "gst": {"plateau": EAGER},
    "gst_strict_cycle": {"plateau": EAGER},
    "tpc": {"plateau": EAGER},
    "gram": {},
    "pike": {},
    "mastering_rate": {},
    "gst_adaptive": {"adaptive": SEEN_EARLY},
    "gst_adaptive by slope": {"adaptive": {**SEEN_EARLY, "advance": {"window": 4, "forecast": "slope"}}},
    "gst_adaptive by plateau": {"adaptive": {"advance": {"enabled": False}}, "plateau": EAGER},
}


def setting(case: str) -> tuple[StagePlan, Recipe]:
    regime = case.split()[0]
    schedule = {"grouping": "domain", "order": "progressive", **SCHEDULES[case]}
    recipe = make_recipe({**schedule, "regime": "mix_all" if regime == "tpc" else regime}, max_steps=360, eval_every=30)
    if regime == "tpc":
        tasks = {name: {"presence": 50, "caption": size - 50} for name, size in SIZES.items()}
        return by_level(recipe.schedule, tasks), recipe
    return build_plan(recipe, SIZES, DOMAINS), recipe


def play(controller: Controller, points: list[EvalPoint], start: int) -> list[Decision | float | None]:
    """Every decision from evaluation `start` on, with a window of gradients after each."""
    found: list[Decision | float | None] = []
    for number, point in enumerate(points[start:], start):
        costs = spent(**{name: 0.1 * (n + 1) for n, name in enumerate(NAMES)})
        found.append(controller.observe(EvalPoint(point.step, point.samples, point.tokens, point.scores, costs)))
        gradients = {name: [n % 4 + 1.0, n % 2, number % 3, 0.5] for n, name in enumerate(NAMES)}
        found.append(controller.observe_gradients(point.step, window(gradients, seed=number)))
        found.append(controller.lr_factor(point.step + 1))
    return found


@pytest.mark.parametrize("file", POINTS)
@pytest.mark.parametrize("case", SCHEDULES)
def test_decisions_differ_0_after_a_kill_at_any_evaluation(case: str, file: str) -> None:
    plan, recipe = setting(case)
    points = POINTS[file]
    expected = play(build_controller(plan, recipe), points, 0)
    for cut in range(1, len(points)):
        first = build_controller(plan, recipe)
        play(first, points[:cut], 0)
        saved = json.dumps(first.state_dict(), allow_nan=False, sort_keys=True)  # as a checkpoint may write it
        second = build_controller(plan, recipe)
        second.load_state_dict(json.loads(saved))
        assert second.weights == first.weights and second.due_step == first.due_step
        assert play(second, points, cut) == expected[3 * cut :], cut
        assert json.dumps(second.state_dict(), sort_keys=True) != saved  # it went on


@pytest.mark.parametrize("case", SCHEDULES)
def test_weights_are_shares_at_every_moment(case: str) -> None:
    plan, recipe = setting(case)
    controller = build_controller(plan, recipe)
    for number in range(len(POINTS["mix_all"])):
        play(controller, POINTS["mix_all"][: number + 1], number)
        weights = controller.weights
        assert sum(weights.values()) == pytest.approx(1) and min(weights.values()) >= 0
        assert sorted(weights) == plan.names


def test_the_recorded_run_brings_every_staged_controller_on() -> None:
    """Otherwise the test above would compare runs in which nothing happens."""
    for case in (
        "sequential",
        "gst",
        "gst_strict_cycle",
        "tpc",
        *(c for c in SCHEDULES if c.startswith("gst_adaptive")),
    ):
        decisions = play(build_controller(*setting(case)), POINTS["mix_all"], 0)
        assert any(isinstance(each, Decision) and each.advanced for each in decisions), case


def test_a_state_of_another_regime_is_refused() -> None:
    state = build_controller(*setting("gram")).state_dict()
    with pytest.raises(CheckpointError, match="stage plan") as caught:
        build_controller(*setting("pike")).load_state_dict(state)
    assert (caught.value.got, caught.value.expected) == ("gram", "pike")

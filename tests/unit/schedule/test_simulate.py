"""Schedules run against recorded curves."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.cli.dry_run import read_run, show
from pipeline.errors import ConfigError
from pipeline.schedule import build_controller, build_plan
from pipeline.schedule.simulate import Curves, RecordedRun, simulate
from tests.unit.schedule.builders import RECORDED, make_recipe, points_of

MIX_ALL = points_of("mix_all.jsonl")
SIZES = {name: 100 for name in MIX_ALL[0].scores}
HALVES = {name: ("speech", "music")[n % 2] for n, name in enumerate(sorted(SIZES))}


def test_the_recorded_schedule_is_simulated_as_it_was_recorded() -> None:
    """With the recorded run's own weights, each recorded loss is met at its own step."""
    run = read_run(RECORDED / "mix_all.jsonl")
    recipe = make_recipe({"regime": "mix_all"}, max_steps=300, global_batch=16, eval_every=30)
    weights = json.loads((RECORDED / "mix_all.jsonl").read_text().splitlines()[0])["weights"]
    sizes = {name: round(1e6 * weight**2) for name, weight in weights.items()}  # T = 2 takes the root
    plan = build_plan(recipe, sizes, {})
    curves = Curves([run])
    steps = simulate(build_controller(plan, recipe), plan.names, recipe, curves)
    assert [each.step for each in steps] == [point.step for point in MIX_ALL]
    mean = [sum(score.loss for score in point.scores.values()) / len(point.scores) for point in MIX_ALL]
    assert [each.decision.reason["pool_loss"] for each in steps] == pytest.approx(mean, rel=0.01)
    assert steps[-1].tokens == pytest.approx(MIX_ALL[-1].tokens, rel=0.01)


def test_what_is_not_drawn_stays_where_it_is() -> None:
    recipe = make_recipe(
        {"regime": "gst", "grouping": "domain", "order": "progressive", "stage": {"max_share": 0.5}},
        max_steps=300, global_batch=16, eval_every=30,
    )  # fmt: skip
    plan = build_plan(recipe, SIZES, HALVES)
    controller = build_controller(plan, recipe)
    steps = simulate(controller, plan.names, recipe, Curves([read_run(RECORDED / "mix_all.jsonl")]))
    advanced = [each for each in steps if each.decision.advanced]
    assert len(advanced) == 1 and advanced[0].decision.reason["rule"] in ("plateau", "max_share")
    entered = steps[steps.index(advanced[0]) + 1]
    late = [name for name in SIZES if name not in plan.stages[0].pool]
    first = sum(MIX_ALL[0].scores[name].loss for name in late)
    assert entered.decision.reason["pool_loss"] * len(SIZES) < first + 40  # they fall only from their entry on


def test_losses_are_read_off_by_own_examples_and_averaged_over_runs() -> None:
    first = RecordedRun({"a": [0, 10, 20]}, {"a": [4.0, 2.0, 1.0]}, 5.0)
    second = RecordedRun({"a": [0, 20]}, {"a": [6.0, 2.0]}, 7.0)
    curves = Curves([first, second])
    assert curves.tokens_per_example == 6.0
    assert [Curves([first]).loss("a", n) for n in (0, 5, 15, 99)] == [4.0, 3.0, 1.5, 1.0]
    assert curves.loss("a", 10) == pytest.approx((2 + 4) / 2)
    waiting = RecordedRun({"a": [0, 0, 10]}, {"a": [4.0, 3.0, 1.0]}, 5.0)  # fell by transfer before its first example
    assert Curves([waiting]).loss("a", 0) == 3.0
    with pytest.raises(ConfigError, match="lack datasets"):
        curves.require(["a", "b"])


def test_individual_starts_every_stage_from_the_base() -> None:
    recipe = make_recipe({"regime": "individual"}, max_steps=280, global_batch=16, eval_every=20)
    plan = build_plan(recipe, SIZES, {})
    steps = simulate(build_controller(plan, recipe), plan.names, recipe, Curves([read_run(RECORDED / "mix_all.jsonl")]))
    assert [each.step for each in steps if each.decision.reset] == list(range(20, 280, 20))


def test_examples_are_counted_from_steps_where_the_log_has_them(tmp_path: Path) -> None:
    score = {"a": {"loss": 2.0}, "b": {"loss": 3.0}}
    events = [
        {"event": "stage", "step": 0, "samples": 0, "stage": 0, "weights": {"a": 0.5, "b": 0.5}},
        {"event": "eval", "split": "val", "step": 0, "samples": 0, "tokens": 0, "datasets": score},
        {"event": "step", "step": 1, "datasets": {"a": {"n": 12, "loss": 1}, "b": {"n": 4, "loss": 1}}},
        {"event": "step", "step": 2, "datasets": {"a": {"n": 16, "loss": 1}}},
        {"event": "eval", "split": "val", "step": 2, "samples": 32, "tokens": 320, "datasets": score},
    ]
    (tmp_path / "events-rank0.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    run = read_run(tmp_path)
    assert run.examples == {"a": [0, 28], "b": [0, 4]} and run.tokens_per_example == 10
    short = read_run(RECORDED / "gst_g3_short.jsonl")  # no step events: as the weights of its stages say
    assert short.examples["macs"][1] == pytest.approx(0.2132 * 240) and short.examples["clotho"][0] == 0


def test_a_log_without_curves_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no loss curves"):
        read_run(tmp_path / "events-rank0.jsonl")


def test_the_table_says_when_it_advances_and_with_which_numbers() -> None:
    schedule = {"regime": "gst_adaptive", "grouping": "domain", "order": "progressive"}
    recipe = make_recipe(schedule, max_steps=360, global_batch=16, eval_every=15)
    plan = build_plan(recipe, SIZES, HALVES)
    steps = simulate(build_controller(plan, recipe), plan.names, recipe, Curves([read_run(RECORDED / "mix_all.jsonl")]))
    out = StringIO()
    show(recipe, steps, Console(file=out, width=400))
    text = out.getvalue()
    assert "opportunity" in text and "predicted_gain" in text and "stays where it is" in text

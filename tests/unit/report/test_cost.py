"""Hand-computed costs. Every step is 10 samples, 100 tokens and 2 seconds (`example.evaluation`)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.report.cost import Cost, judge
from pipeline.report.runs import read_experiment
from tests.unit.report.example import evaluation, score, write_probe, write_run

NAN = float("nan")


def mix_all(out: Path, seed: int = 0) -> None:
    # Best: a 1.0 at step 30, b 2.0 at step 20; with eps = 0.1 the targets are 1.1 and 2.2.
    losses = [(0, 4.0, 5.0), (10, 2.0, 3.0), (20, 1.5, 2.0), (30, 1.0, 2.15), (40, 1.2, 2.1)]
    events = [evaluation(step, {"a": a, "b": b}) for step, a, b in losses]
    write_run(out, "mix_all", seed, events, {"a": 1.2, "b": 2.1})


def other(out: Path, arm: str, losses: list[tuple[int, float, float]], **info: object) -> None:
    write_run(out, arm, 0, [evaluation(s, {"a": a, "b": b}) for s, a, b in losses], {"a": 1.0, "b": 2.0}, **info)


def test_targets_and_the_baselines_own_cost(tmp_path: Path):
    mix_all(tmp_path)
    judgement = judge(read_experiment(tmp_path), eps=0.1)
    assert judgement.targets == {0: pytest.approx({"a": 1.1, "b": 2.2})}
    costs = judgement.costs[("mix_all", 0)]
    assert costs.target.together == Cost(300, 3000, 30, 60.0)
    assert costs.target.first_hit == {"a": Cost(300, 3000, 30, 60.0), "b": Cost(200, 2000, 20, 40.0)}
    assert costs.own_stop == Cost(400, 4000, 40, 80.0)


def test_the_probe_is_added_to_every_cost_of_an_affinity_arm(tmp_path: Path):
    mix_all(tmp_path)
    write_probe(tmp_path, samples=55, steps=3, seconds=7.0, backwards=9, tokens=500)
    curve = [(0, 4.0, 5.0), (10, 1.05, 3.0), (20, 1.3, 2.1), (30, 1.0, 2.1)]
    other(tmp_path, "gst-g3", curve, uses_affinity=True)
    other(tmp_path, "gst-random-3", curve)
    judgement = judge(read_experiment(tmp_path), eps=0.1)
    ours, control = judgement.costs[("gst-g3", 0)], judgement.costs[("gst-random-3", 0)]
    # 55 probe samples at 10 samples a step are 5.5 steps.
    assert ours.target.together == Cost(355, 3500, 35.5, 67.0)
    assert ours.target.first_hit["a"] == Cost(155, 1500, 15.5, 27.0)
    assert ours.own_stop == Cost(455, 4500, 45.5, 87.0)
    assert control.target.together == Cost(300, 3000, 30, 60.0)
    assert control.probe is None


def test_together_is_stricter_than_each_once(tmp_path: Path):
    mix_all(tmp_path)
    other(tmp_path, "gst-g3", [(0, 4.0, 5.0), (10, 1.0, 3.0), (20, 1.3, 2.1), (30, 1.3, 2.1)])
    target = judge(read_experiment(tmp_path), eps=0.1).costs[("gst-g3", 0)].target
    assert target.together is None
    assert target.each_once == Cost(200, 2000, 20, 40.0)
    assert (target.n_reached, target.most_together, target.n_datasets) == (2, 1, 2)


def test_not_reached_keeps_how_many_were(tmp_path: Path):
    mix_all(tmp_path)
    other(tmp_path, "gst-g3", [(0, 4.0, 5.0), (10, 1.0, 3.0), (40, 1.0, 2.3)])
    target = judge(read_experiment(tmp_path), eps=0.1).costs[("gst-g3", 0)].target
    assert target.together is None
    assert target.each_once is None
    assert target.first_hit["b"] is None
    assert target.n_reached == 1


def test_nan_losses_never_meet_a_target_and_never_set_one(tmp_path: Path):
    events = [
        evaluation(0, {"a": NAN, "b": NAN}),
        evaluation(10, {"a": 1.0, "b": NAN}),
        evaluation(20, {"a": NAN, "b": NAN}),
    ]
    write_run(tmp_path, "mix_all", 0, events, {"a": 1.0, "b": NAN})
    judgement = judge(read_experiment(tmp_path), eps=0.0)
    assert judgement.targets[0]["a"] == 1.0
    assert math.isnan(judgement.targets[0]["b"])
    target = judgement.costs[("mix_all", 0)].target
    assert target.together is None
    assert target.first_hit == {"a": Cost(100, 1000, 10, 20.0), "b": None}


def test_unknown_probe_tokens_make_the_token_cost_unknown(tmp_path: Path):
    mix_all(tmp_path)
    write_probe(tmp_path, samples=50, seconds=1.0)
    other(tmp_path, "gst-g3", [(10, 1.0, 2.0)], uses_affinity=True)
    cost = judge(read_experiment(tmp_path)).costs[("gst-g3", 0)].target.together
    assert cost is not None
    assert (cost.tokens, cost.samples) == (None, 150)


def test_a_run_pays_for_the_groups_it_used_and_not_for_the_probe(tmp_path: Path):
    mix_all(tmp_path)
    write_probe(tmp_path, samples=50, seconds=1.0)
    other(tmp_path, "gst-t2", [(10, 1.0, 2.0)], uses_affinity=True, affinity_cost={"samples": 900, "seconds": 70.0})
    cost = judge(read_experiment(tmp_path)).costs[("gst-t2", 0)].target.together
    assert cost is not None
    assert (cost.samples, cost.wall_s) == (1000, 90.0)


def test_an_affinity_arm_without_a_probe_is_an_error(tmp_path: Path):
    mix_all(tmp_path)
    other(tmp_path, "gst-g3", [(10, 1.0, 2.0)], uses_affinity=True)
    with pytest.raises(ConfigError, match="affinity"):
        judge(read_experiment(tmp_path))


def test_accuracy_target_weighs_by_validation_examples(tmp_path: Path):
    def at(step: int, small: float, large: float) -> dict:
        return evaluation(step, {"a": score(1.0, small, examples=10), "b": score(1.0, large, examples=30)})

    # Weighted bests: baseline (0.4 * 10 + 0.8 * 30) / 40 = 0.7, macro 0.6.
    write_run(tmp_path, "mix_all", 0, [at(0, 0.1, 0.1), at(10, 0.4, 0.8)], {"a": 1.0, "b": 1.0})
    # Step 20: weighted 0.625, macro 0.65; step 30: weighted 0.725, macro 0.65.
    write_run(tmp_path, "gst-g3", 0, [at(10, 0.1, 0.5), at(20, 0.7, 0.6), at(30, 0.5, 0.8)], {"a": 1.0, "b": 1.0})
    costs = judge(read_experiment(tmp_path)).costs[("gst-g3", 0)]
    assert costs.macro_accuracy == Cost(200, 2000, 20, 40.0)
    assert costs.weighted_accuracy == Cost(300, 3000, 30, 60.0)


def test_a_seed_is_judged_only_against_its_own_baseline(tmp_path: Path):
    mix_all(tmp_path, seed=0)
    write_run(tmp_path, "gst-g3", 1, [evaluation(10, {"a": 0.1, "b": 0.1})], {"a": 1.0, "b": 2.0})
    judgement = judge(read_experiment(tmp_path))
    assert judgement.unjudged == ("gst-g3-s1",)
    assert list(judgement.costs) == [("mix_all", 0)]


@pytest.mark.parametrize("eps", [-0.01, NAN])
def test_a_senseless_eps_is_refused(tmp_path: Path, eps: float):
    mix_all(tmp_path)
    with pytest.raises(ConfigError, match="eps"):
        judge(read_experiment(tmp_path), eps=eps)

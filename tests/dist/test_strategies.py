"""Real ZeRO-3 on two ranks: every optimizer and strategy on slices is that of plain torch, and resumes to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.training import OPTIMIZER_DEFAULTS
from pipeline.runlog.events import read_event_lines
from tests.dist.test_resume import final_numbers, run_dir, wait_for_step
from tests.launching import kill_all, run_ranks, start_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = run_ranks("tests.dist.strategies_worker", tmp_path_factory.mktemp("strategies"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("NUMBERS "))
    return json.loads(line.removeprefix("NUMBERS "))


@pytest.mark.parametrize("name", OPTIMIZER_DEFAULTS)
def test_an_optimizer_on_slices_is_the_unsharded_one(numbers: dict[str, Any], name: str) -> None:
    """Distances are shares of how far training moved the weights."""
    assert numbers["optimizers"][name]["to_reference"] < 2e-5
    assert numbers["optimizers"][name]["resumed_differs"] == 0


@pytest.mark.parametrize("name", ["lion", "sophia"])
def test_optimizers_of_elements_do_not_care_how_slices_are_cut(numbers: dict[str, Any], name: str) -> None:
    assert numbers["pieces"][name]["pieces"] > 2
    assert numbers["pieces"][name]["to_reference"] < 2e-5


@pytest.mark.parametrize("name", ["lion", "lamb"])
def test_state_in_cpu_memory_changes_nothing(numbers: dict[str, Any], name: str) -> None:
    assert numbers["offload"][name]["to_reference"] < 2e-5


@pytest.mark.parametrize("name", ["schedule_free", "dog"])
def test_optimizers_that_need_all_slices_at_once_refuse_small_pieces(numbers: dict[str, Any], name: str) -> None:
    assert "raise zero_optimization.sub_group_size" in numbers["refused"][name]


@pytest.mark.parametrize("kind", ["ema", "merge"])
def test_averaged_weights_are_those_of_the_unsharded_model(numbers: dict[str, Any], kind: str) -> None:
    found = numbers[kind]
    assert found["trained"] < 2e-5 and found["averaged"] < 2e-5  # with label smoothing and AutoClip
    assert found["average_to_trained"] > 1e-2
    assert found["outputs"] < 1e-5  # what the model computes follows
    assert found["left_differs"] == 0  # and comes back to the bit
    assert found["resumed_differs"] == 0
    assert found["zeroed"] == 0 and found["put_back_differs"] == 0


def test_autoclip_limits_are_percentiles_of_the_whole_gradients_norm(numbers: dict[str, Any]) -> None:
    norms, limits = numbers["ema"]["norms"], numbers["ema"]["clip_limits"]
    for step, limit in enumerate(limits):
        seen = sorted(norms[: step + 1])
        place = 0.4 * step
        expected = seen[int(place)] + (place % 1) * (seen[min(int(place) + 1, step)] - seen[int(place)])
        assert limit == pytest.approx(expected, rel=1e-5)
    assert any(limit < norm * 0.99 for limit, norm in zip(limits, norms, strict=True))  # it did clip
    assert not numbers["ema"]["limits_differ"]


def test_a_model_in_bf16_computes_with_the_rounded_average(numbers: dict[str, Any]) -> None:
    found = numbers["bf16"]
    assert found["moved"] > 0 and found["outputs_differ"] == 0 and found["left_differs"] == 0


def test_stopped_matrices_stay_to_the_bit_and_the_others_go_on(numbers: dict[str, Any]) -> None:
    found = numbers["grades"]
    assert found["stopped"][0] == [] and len(found["stopped"][2]) >= 1
    for before, after in zip(found["stopped"], found["stopped"][1:], strict=False):
        assert set(before) <= set(after)
    assert not any(name.endswith("bias") or "norm" in name for name in found["stopped"][-1])
    assert found["same_on_ranks"] and found["resumed_differs"] == 0
    assert found["moved_after_stop"] == [] and found["going_that_did_not_move"] == []


@pytest.mark.long
def test_a_run_with_everything_on_is_killed_and_resumed_and_tests_its_best_weights(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    keys = (
        "train.optimizer={name: sophia, lr: 5.0e-3, autoclip: {percentile: 60}, options: {update_period: 2, p: 1.0}}",
        "train.lr_schedule={kind: infinite, warmup_steps: 2, rewarm_steps: 2}",
        "train.lr_scaling=sqrt",
        "train.base_batch=4",
        "train.label_smoothing=0.1",
        "train.averaging={kind: ema, decay: 0.5}",
        "train.grades={threshold: 0.6, window: 2, grace_share: 0.2}",
        "train.keep_best={metric: val/macro/loss, mode: max}",  # the worst, which is not the last
        "train.keep_checkpoints=1",
        "model.dropout=0.1",
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = run_ranks("pipeline.cli.train", "-c", write_recipe(whole), *keys)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    recipe = write_recipe(broken)
    process = start_ranks("pipeline.cli.train", "-c", recipe, *keys)
    wait_for_step(process, broken, 8)
    kill_all(process)
    again = run_ranks("pipeline.cli.train", "-c", recipe, *keys)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "resumed at step" in again.stdout
    expected, got = final_numbers(whole), final_numbers(broken)
    assert got == expected
    best = [event for event in read_event_lines(run_dir(whole) / "events-rank0.jsonl")[0] if event["event"] == "best"]
    losses = {
        step: sum(score["loss"] for score in event["datasets"].values()) / len(event["datasets"])
        for (kind, step), event in expected["events"].items()
        if kind == "eval" and step
    }
    worst = max(losses, key=lambda step: losses[step])
    assert worst != 12 and [event["of"] for event in best] == [worst]
    kept = {folder.name for folder in (run_dir(whole) / "checkpoints").glob("step-*")}
    assert kept == {f"step-{worst:06d}", "step-000012"}
    tested = sum(score["loss"] for score in expected["test"].values()) / len(expected["test"])
    assert abs(tested - losses[worst]) < abs(tested - losses[12])
    steps = [event for (kind, _), event in expected["events"].items() if kind == "step"]
    assert all("clip_limit" in event and "stopped_matrices" in event for event in steps)

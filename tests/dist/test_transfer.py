"""`gst transfer` on two real ranks: killed and resumed it equals an undisturbed run, and its groups reach the plan."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.affinity.transfer_log import FILE, read_log
from pipeline.affinity.versions import load_version
from pipeline.cli.session import Data
from pipeline.cli.transfer import results_source
from pipeline.config import load_recipe
from tests.launching import kill_all, run_command, run_ranks, start_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.long]
MODULE = "pipeline.cli.transfer"
SETTINGS = (
    "data.datasets=[height,colour,animal]", "probe.warmup_steps=4", "transfer.steps=6",
    "schedule.regime=gst", "schedule.grouping=transferability",
    "affinity.method=transferability", "affinity.groups=2",
)  # fmt: skip
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transfer")


@pytest.fixture
def whole(write_recipe: Callable[..., Path], folder: Path) -> Path:
    """The experiment folder of an undisturbed run, done once for all tests."""
    out = folder / "whole"
    if not out.exists():
        done = run_ranks(MODULE, "-c", write_recipe(out), *SETTINGS)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "training 3/3" in done.stdout and "s left" in done.stdout
    return out


def numbers(out: Path) -> list[tuple]:
    """Every result but its seconds."""
    log = read_log(out / "transfer")
    return [(*line.key, line.losses, {k: v for k, v in line.cost.items() if k != "seconds"}) for line in log.lines]


def test_killed_after_the_first_result_and_resumed_equals_undisturbed(
    whole: Path, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    recipe = write_recipe(broken)
    process = start_ranks(MODULE, "-c", recipe, *SETTINGS)
    file, deadline = broken / "transfer" / FILE, time.monotonic() + TIMEOUT_S
    while not (file.exists() and file.read_text().count("\n") >= 3):  # what they are of, the base, one training
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"no result came: {process.communicate()[0][-3000:]}")
        time.sleep(0.01)
    kill_all(process)
    assert not read_log(broken / "transfer").is_complete(1)
    again = run_ranks(MODULE, "-c", recipe, *SETTINGS)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "going on after" in again.stdout
    assert numbers(broken) == numbers(whole)
    losses = [line[2] for line in numbers(whole)]
    assert len(losses) == 4 and all(sorted(each) == ["animal", "colour", "height"] for each in losses)
    assert losses[1] != losses[2] != losses[3]
    results = read_log(broken / "transfer").results(1)
    assert results.cost["steps"] == 4 + 3 * 6 and results.cost["samples"] == 8 * results.cost["steps"]


def test_done_is_done_and_its_groups_reach_the_plan(whole: Path, write_recipe: Callable[..., Path]) -> None:
    recipe = write_recipe(whole)
    before = (whole / "transfer" / FILE).stat().st_mtime_ns
    done = run_command("gst", "transfer", "-c", recipe, *SETTINGS, "affinity.groups=3", "schedule.grouping=random")
    assert done.returncode == 0 and "already done" in done.stdout
    assert (whole / "transfer" / FILE).stat().st_mtime_ns == before
    grouped = run_command("gst", "group", "-c", recipe, *SETTINGS)
    assert grouped.returncode == 0, grouped.stdout + grouped.stderr
    version = load_version(whole / "affinity", method="transferability")
    assert len(version.groups) == 2 and version.cost["trainings"] == 3 and "no evidence" in version.verdict
    plan = ("schedule.regime=gst", "schedule.grouping=transferability", f"schedule.affinity={whole / 'affinity'}")
    planned = run_command("gst", "plan", "-c", recipe, *SETTINGS, *plan)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "stage 1" in planned.stdout and "no evidence" in " ".join(planned.stdout.split())
    other = run_command("gst", "group", "-c", recipe, *SETTINGS, "transfer.steps=7")
    assert other.returncode == 2 and "steps: 7" in other.stderr
    missing = run_command("gst", "group", "-c", recipe, *SETTINGS, f"out={whole / 'nowhere'}")
    assert missing.returncode == 2 and "gst transfer" in missing.stderr


def test_results_depend_on_what_was_trained_and_on_nothing_else(whole: Path, write_recipe: Callable[..., Path]) -> None:
    def source(*overrides: str) -> str:
        recipe = load_recipe(write_recipe(whole), [*SETTINGS, *overrides])
        return results_source(recipe, Data(recipe))

    usual = read_log(whole / "transfer").header.source
    for same in ("transfer.seeds=4", "affinity.groups=3", "sketch.k=512", "schedule.seed=3", "arm=other"):
        assert source(same) == usual, same
    for other in ("transfer.steps=7", "train.seed=1", "train.optimizer.lr=0.1", "probe.warmup_steps=5"):
        assert source(other) != usual, other
    assert source("data.datasets=[height,colour]") != usual


def test_every_training_starts_from_the_base_bit_for_bit(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    done = run_ranks("tests.dist.transfer_worker", write_recipe(tmp_path / "pairs"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("NUMBERS "))[8:])
    base, trained, *restored = found["states"]
    assert trained != base and restored == [base, base]
    after = np.array(found["after"])
    assert after.shape == (1, 2, 2) and len(np.unique(after)) == 4 and np.isfinite(found["base"]).all()

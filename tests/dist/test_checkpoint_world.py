"""A run that 2 ranks saved goes on with 1 and with 3: the same samples and decisions, losses as near as sums are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.runlog.events import effective_events, read_event_lines
from tests.bench.resume_log import RunLog
from tests.dist.test_resume import MEASURED
from tests.dist.world_worker import ARMS, STOP_AT
from tests.dist.zero_stages_worker import CASES
from tests.launching import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow]
OTHER_WORLDS = (1, 3)
STEPS = 12

RECIPE = """
arm: any
out: any
model: {{path: {model}, lora: {{r: 4, dropout: 0.0}}}}
data: {{shards: {shards}}}
train:
  max_steps: 12
  global_batch: 12
  micro_batch: 2
  optimizer: {{lr: 5.0e-3}}
  eval_every: 3
  checkpoint_every: 3
  keep_checkpoints: 4
eval: {{val_per_dataset: 4, test_per_dataset: 4, micro_batch: 4, generate_per_dataset: 0}}
sketch: {{k: 256, window_steps: 4, form: ema, half_life: 6, second_seed_every: 2}}
service: {{push_windows: false}}
schedule:
  regime: gst
  grouping: explicit
  explicit: [[height, colour], [animal, number]]
  stage: {{max_share: 0.4}}
"""


@pytest.fixture(scope="module")
def outs(tone_shards: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of ranks after step 6 -> the folder of that experiment; 2: uninterrupted."""
    folder = tmp_path_factory.mktemp("worlds")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model, shards=tone_shards))
    whole, broken = folder / "whole", folder / "broken"
    run("tests.dist.world_worker", recipe, whole, broken)
    found = {2: whole}
    for ranks in OTHER_WORLDS:
        found[ranks] = folder / f"on-{ranks}"
        shutil.copytree(broken, found[ranks])
        run("tests.dist.world_worker", recipe, found[ranks], ranks=ranks)
    return found


def run(module: str, *words: object, ranks: int = 2) -> str:
    done = run_ranks(module, *words, ranks=ranks)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def events_of(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    events = effective_events(read_event_lines(folder / "events-rank0.jsonl")[0])
    return [event for event in events if event["event"] in kinds]


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """Every number of an event, by where it stands in it."""
    if isinstance(value, dict):
        return {k: v for key, each in value.items() for k, v in numbers(each, f"{path}/{key}").items()}
    if isinstance(value, list):
        return {k: v for key, each in enumerate(value) for k, v in numbers(each, f"{path}/{key}").items()}
    return {path: float(value)} if isinstance(value, int | float) else {}


@pytest.mark.long
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("ranks", OTHER_WORLDS)
def test_samples_are_those_of_the_uninterrupted_run(outs: dict[int, Path], ranks: int, arm: str) -> None:
    whole, other = (RunLog(outs[world] / "arms" / f"{arm}-s0", world) for world in (2, ranks))
    # Before the change two ranks wrote the log, and the slots of these lines are theirs.
    assert whole.samples_differing_after(STOP_AT, other) == (0, (STEPS - STOP_AT) * 6)


@pytest.mark.long
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("ranks", OTHER_WORLDS)
def test_numbers_are_those_of_the_uninterrupted_run_but_for_rounding(
    outs: dict[int, Path], ranks: int, arm: str
) -> None:
    kinds = ("step", "eval", "stage", "decision", "gradient_decision", "sketch")
    runs = [events_of(outs[world] / "arms" / f"{arm}-s0", *kinds) for world in (2, ranks)]
    assert [(e["event"], e["step"]) for e in runs[0]] == [(e["event"], e["step"]) for e in runs[1]]
    for expected, got in zip(*runs, strict=True):
        expected, got = ({k: v for k, v in each.items() if k not in MEASURED} for each in (expected, got))
        assert numbers(got) == pytest.approx(numbers(expected), rel=2e-3, abs=2e-3), expected["event"]
        if expected["event"] == "step":
            assert got["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    results = [json.loads((outs[world] / "arms" / f"{arm}-s0" / "result.json").read_text()) for world in (2, ranks)]
    for dataset, scores in results[0]["datasets"].items():
        assert results[1]["datasets"][dataset]["loss"] == pytest.approx(scores["loss"], abs=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("ranks", OTHER_WORLDS)
def test_a_change_of_the_number_of_ranks_is_said(outs: dict[int, Path], ranks: int) -> None:
    events = read_event_lines(outs[ranks] / "arms" / "together-s0" / "events-rank0.jsonl")[0]
    (resume,) = [event for event in events if event["event"] == "resume"]
    assert (resume["step"], resume["ranks_before"], resume["ranks"]) == (STOP_AT, 2, ranks)
    assert resume["begun_anew"] == ["dropout"]
    assert not list((outs[ranks] / "arms" / "together-s0" / "checkpoints").glob(".redealt*"))


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """Number of ranks that read what two ranks wrote -> what `zero_stages_worker` found."""
    folder = tmp_path_factory.mktemp("stages")
    run("tests.dist.zero_stages_worker", "write", folder)
    found = {}
    for ranks in OTHER_WORLDS:
        said = run("tests.dist.zero_stages_worker", "read", folder, ranks=ranks)
        line = next(line for line in said.splitlines() if line.startswith("NUMBERS "))
        found[ranks] = json.loads(line.removeprefix("NUMBERS "))
    return found


@pytest.mark.parametrize("case", [f"{stage}-{optimizer}" for stage, optimizer in CASES])
@pytest.mark.parametrize("ranks", OTHER_WORLDS)
def test_weights_and_moments_are_the_same_to_the_bit_under_every_stage(
    stages: dict[int, dict[str, Any]], ranks: int, case: str
) -> None:
    """The steps that follow show what cannot be looked at: moments below ZeRO-3, counters, each group's decay."""
    found = stages[ranks][case]
    assert found["same_keys"] and found["differing"] == 0 and found["states"] > 10
    assert found["moved"] > 5e-3 and found["off"] < 1e-3 * found["moved"]


@pytest.mark.parametrize("ranks", OTHER_WORLDS)
def test_other_frozen_weights_and_another_stage_are_refused(stages: dict[int, dict[str, Any]], ranks: int) -> None:
    said = stages[ranks]["refusals"]
    assert "the frozen weights of the model are not those of the checkpoint" in said["frozen"]
    assert "another ZeRO stage" in said["stage"] and "stage 3" in said["stage"]

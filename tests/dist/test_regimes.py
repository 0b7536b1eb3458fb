"""Every regime on two real ranks, to its end; stopped in the middle and resumed it does the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schedule import REGIMES
from pipeline.runlog.events import effective_events, read_event_lines
from tests.dist.test_resume import MEASURED
from tests.launching import run_ranks
from tests.selection import selected

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.long]
DATASETS = ("height", "colour", "animal", "number")
NUMBERS = ("step", "eval", "stage", "decision", "gradient_decision", "sketch")


@pytest.fixture(scope="module")
def experiments(
    request: pytest.FixtureRequest, tone_shards: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("regimes")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model, shards=tone_shards))
    words = [recipe, folder / "whole", folder / "broken", *selected(request, "regime")]
    done = run_ranks("tests.dist.regimes_worker", *words, timeout_s=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "whole", folder / "broken"


RECIPE = """
arm: any
out: any
model: {{path: {model}, lora: {{r: 4}}}}
data: {{shards: {shards}}}
train:
  max_steps: 12
  global_batch: 8
  micro_batch: 2
  optimizer: {{lr: 5.0e-3}}
  eval_every: 3
  checkpoint_every: 6
eval: {{val_per_dataset: 4, test_per_dataset: 4, micro_batch: 4, generate_per_dataset: 3, max_new_tokens: 4}}
sketch: {{k: 256, window_steps: 4}}
service: {{push_windows: false}}
schedule:
  grouping: explicit
  explicit: [[height, colour], [animal, number]]
  stage: {{max_share: 0.4}}
"""


def numbers(run: Path) -> list[dict[str, Any]]:
    """What a run did, as its log tells it once superseded events are dropped, without the time it took."""
    events = effective_events(read_event_lines(run / "events-rank0.jsonl")[0])
    return [
        {key: value for key, value in event.items() if key not in MEASURED}
        for event in events
        if event["event"] in NUMBERS
    ]


@pytest.mark.parametrize("regime", REGIMES)
def test_a_regime_runs_to_its_end_and_a_resume_changes_nothing(regime: str, experiments: tuple[Path, Path]) -> None:
    whole, broken = (out / "arms" / f"{regime}-s0" for out in experiments)
    events = numbers(whole)
    assert {event["step"] for event in events if event["event"] == "step"} == set(range(1, 13))
    resumes = [e for e in read_event_lines(broken / "events-rank0.jsonl")[0] if e["event"] == "resume"]
    assert [event["step"] for event in resumes] == [6]
    differing = [pair for pair in zip(events, numbers(broken), strict=True) if pair[0] != pair[1]]
    assert not differing
    results = [json.loads((run / "result.json").read_text())["datasets"] for run in (whole, broken)]
    assert results[0] == results[1] and set(results[0]) == set(DATASETS)
    examples = [(run / "examples-test.jsonl").read_text() for run in (whole, broken)]
    assert examples[0] == examples[1] and len(examples[0].splitlines()) == 4 * len(DATASETS)


def test_weights_that_follow_gradients_or_losses_move_and_others_do_not(experiments: tuple[Path, Path]) -> None:
    moved = {regime for regime in REGIMES if any("weights" in e and e["event"] == "gradient_decision"
             for e in numbers(experiments[0] / "arms" / f"{regime}-s0"))}  # fmt: skip
    assert {"gram", "pike"} <= moved <= {"gram", "pike", "gst_adaptive"}


def test_the_last_individual_model_learns_as_if_it_were_the_only_one(experiments: tuple[Path, Path]) -> None:
    """Three models were trained before it in the same run; it began from the base, with a fresh optimizer."""
    runs = [numbers(experiments[0] / "arms" / name) for name in ("individual-s0", "alone-number-s0")]
    last, alone = ([event for event in run if event["event"] == "step"] for run in runs)
    assert [set(event["datasets"]) for event in last] == [{name} for name in sorted(DATASETS) for _ in range(3)]
    learnt = [[(event["loss"], event["lr"], event["grad_norm"]) for event in run] for run in (last[9:], alone)]
    assert learnt[0] == learnt[1] and len(alone) == 3


@pytest.mark.parametrize("dataset", ["animal", "number"])
def test_individual_examples_are_answered_by_the_model_of_their_dataset(
    dataset: str, experiments: tuple[Path, Path]
) -> None:
    """The first model, gone for nine steps when the run ends, and the last."""
    arms = experiments[0] / "arms"
    lines = [(arms / name / "examples-test.jsonl").read_text() for name in ("individual-s0", f"alone-{dataset}-s0")]
    together, alone = ([json.loads(line) for line in text.splitlines()] for text in lines)
    assert [each for each in together if each["dataset"] == dataset] == alone and len(alone) == 4
    assert sum(each["prediction"] is not None for each in alone) == 3

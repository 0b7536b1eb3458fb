"""A recipe file with stages: an alignment run with all weights, then adapters on the model that it saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.runlog.events import read_event_lines
from tests.launching import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow]

RECIPE = """
arm: two
out: {out}
model: {{path: {model}}}
data: {{shards: {shards}}}
train: {{max_steps: 4, global_batch: 8, micro_batch: 2, eval_every: 2, checkpoint_every: 2}}
eval: {{val_per_dataset: 4, test_per_dataset: 4, micro_batch: 4}}
sketch: {{enabled: false}}
logging: {{mlflow: false}}
stages:
  - name: align
    model: {{mode: full}}
    train: {{optimizer: {{lr: 5.0e-3}}}}
  - name: instruct
    model: {{mode: lora}}
    data: {{datasets: [animal, number]}}
"""


def losses(run: Path, event: str) -> list[float]:
    """Mean validation loss of `animal` and `number` at every evaluation."""
    found = [e["datasets"] for e in read_event_lines(run / "events-rank0.jsonl")[0] if e["event"] == event]
    return [(each["animal"]["loss"] + each["number"]["loss"]) / 2 for each in found]


def test_each_stage_starts_from_the_model_of_the_one_before(
    tone_shards: Path, tiny_model: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "two.yaml"
    recipe.write_text(RECIPE.format(out=tmp_path / "out", model=tiny_model, shards=tone_shards))
    done = run_ranks("pipeline.cli.train", "-c", recipe)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    align, instruct = (tmp_path / "out" / "arms" / f"two-{name}-s0" for name in ("align", "instruct"))
    before, after = losses(align, "eval"), losses(instruct, "eval")
    assert after[0] == pytest.approx(before[-1], rel=1e-5) and before[-1] < before[0]
    assert set(json.loads((instruct / "result.json").read_text())["datasets"]) == {"animal", "number"}
    again = run_ranks("pipeline.cli.train", "-c", recipe)
    assert again.returncode == 0 and again.stdout.count("already finished") == 2

"""SALMONN under ZeRO-3 on two ranks, every weight partitioned: beside a rank that has no audio, and answering."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pipeline.cli.model import train_texts
from pipeline.config.deepspeed import find_deepspeed_json
from pipeline.models.tiny import write_tiny_model
from pipeline.runlog.events import read_event_lines
from tests.bench.mini_data import measure_on_ranks
from tests.launching import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow]

RECIPE = """
arm: salmonn
out: {out}
model: {{path: {model}, lora: {{r: 4, dropout: 0.0, targets: [q_proj, v_proj]}}}}
data: {{shards: {shards}}}
train: {{max_steps: 2, global_batch: 8, micro_batch: 2, eval_every: 2, checkpoint_every: 2}}
eval: {{val_per_dataset: 2, test_per_dataset: 2, generate_per_dataset: 2, max_new_tokens: 3, micro_batch: 2}}
engine: {{deepspeed: {deepspeed}}}
logging: {{mlflow: false}}
"""


@pytest.fixture(scope="module")
def recipe(tone_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("salmonn")
    write_tiny_model("salmonn", train_texts(tone_shards), folder / "model", vocab_size=400, width=32)
    zero = json.loads(find_deepspeed_json("cpu_zero3.json").read_text())
    zero["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (folder / "zero.json").write_text(json.dumps(zero))
    places = {
        "out": folder / "run",
        "model": folder / "model",
        "shards": tone_shards,
        "deepspeed": folder / "zero.json",
    }
    (folder / "recipe.yaml").write_text(RECIPE.format(**places))
    return folder / "recipe.yaml"


def test_a_rank_without_audio_trains_beside_one_with(recipe: Path) -> None:
    numbers = measure_on_ranks("tests.dist.text_only_worker", recipe, "train.max_steps=12")
    assert len(numbers["losses"]) == 4 and all(map(math.isfinite, numbers["losses"]))
    assert numbers["losses"][0] == pytest.approx(numbers["expected_first"], rel=1e-5)


def test_it_trains_and_answers(recipe: Path, tmp_path: Path) -> None:
    done = run_ranks("pipeline.cli.train", "-c", recipe, f"out={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    events = read_event_lines(tmp_path / "arms" / "salmonn-s0" / "events-rank0.jsonl")[0]
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    tests = [event for event in events if event["event"] == "test"]
    assert tests[0]["examples"] == tests[0]["generated"] == 8

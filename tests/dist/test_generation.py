"""Answers on real ranks under ZeRO-3: it ends, and says the same however the examples are dealt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.code_digest import code_digest
from pipeline.config.deepspeed import find_deepspeed_json
from pipeline.runlog.events import read_event_lines
from tests.launching import run_command, run_ranks

pytestmark = pytest.mark.dist
GENERATED = 5
LIMIT = 20

RECIPE = """
arm: any
out: any
model: {{path: {model}, lora: {{r: 2}}}}
data: {{shards: {shards}, datasets: [height, colour, animal]}}
train: {{max_steps: 2, global_batch: 4, micro_batch: 2}}
eval: {{generate_per_dataset: {generated}, max_new_tokens: {limit}, micro_batch: 5}}
engine: {{deepspeed: {deepspeed}}}
logging: {{mlflow: false}}
"""


@pytest.fixture(scope="module")
def recipe(tone_shards: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every other token ends an answer, so that answers differ in length; every parameter is partitioned."""
    folder = tmp_path_factory.mktemp("generation")
    model = folder / "model"
    shutil.copytree(tiny_model, model)
    settings = json.loads((model / "generation_config.json").read_text())
    settings |= {"eos_token_id": list(range(6, 400, 2)), "do_sample": True, "temperature": 3.0}
    (model / "generation_config.json").write_text(json.dumps(settings))
    zero = json.loads(find_deepspeed_json("cpu_zero3.json").read_text())
    zero["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (folder / "zero.json").write_text(json.dumps(zero))
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        RECIPE.format(model=model, shards=tone_shards, generated=GENERATED, limit=LIMIT, deepspeed=folder / "zero.json")
    )
    return recipe


def results(out: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """result.json's datasets, the lines of examples, and the `test` events of an evaluated model."""
    run = out / "arms" / "original-s0"
    events = read_event_lines(run / "events-rank0.jsonl")[0]
    return (
        json.loads((run / "result.json").read_text())["datasets"],
        [json.loads(line) for line in (run / "examples-test.jsonl").read_text().splitlines()],
        [event for event in events if event["event"] == "test"],
    )


def test_answers_do_not_depend_on_ranks_and_batches(recipe: Path) -> None:
    """Three micro-batches on two ranks: one has a filler, and turns of other lengths than its peer."""
    two, one = recipe.parent / "two", recipe.parent / "one"
    for done in (
        run_ranks("pipeline.cli.evaluate", "-c", recipe, f"out={two}"),
        run_command("gst", "eval", "-c", recipe, f"out={one}", "eval.micro_batch=2"),
    ):
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "weighted token accuracy" in done.stdout and f"{3 * GENERATED} answered freely" in done.stdout
    assert json.loads((two / "arms" / "original-s0" / "run.json").read_text())["code_digest"] == code_digest()
    scores, examples, events = results(two)
    assert [(event["step"], event["examples"], event["generated"]) for event in events] == [(0, 18, 15)]
    assert events[0]["seconds"] > 0 and events[0]["generate_seconds"] > 0
    assert [(each["dataset"], each["id"]) for each in examples] == sorted((e["dataset"], e["id"]) for e in examples)
    texts = [each["prediction"] for each in examples if each["prediction"] is not None]
    assert len({len(text) for text in texts}) > 3
    for name, score in scores.items():
        its = [each for each in examples if each["dataset"] == name]
        assert len(its) == score["examples"] == 6
        assert score["generated"] == sum(each["prediction"] is not None for each in its) == GENERATED
        assert score["tokens"] == sum(each["tokens"] for each in its)
        assert score["loss"] == pytest.approx(sum(each["loss_sum"] for each in its) / score["tokens"])
        assert score["token_accuracy"] == sum(each["correct"] for each in its) / score["tokens"]
        assert "accuracy" in score["metrics"]
    same_scores, same_examples, _ = results(one)
    for a, b in zip(examples, same_examples, strict=True):
        assert {**a, "loss_sum": 0} == {**b, "loss_sum": 0}
        assert a["loss_sum"] == pytest.approx(b["loss_sum"], rel=1e-4)
    assert {name: score["metrics"] for name, score in same_scores.items()} == {
        name: score["metrics"] for name, score in scores.items()
    }

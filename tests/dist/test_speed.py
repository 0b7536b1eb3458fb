"""Two ranks of ZeRO-3: each switch of `train.speed` leaves losses and gradients; the log says how fast it went."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.runlog.events import read_event_lines
from tests.launching import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.long]
KINDS = ("lora", "full")
WAYS = ("answer_logits", "sdpa", "chunked", "checkpointing", "all")


@pytest.fixture(scope="module")
def numbers(tone_shards: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    recipe = tmp_path_factory.mktemp("speed") / "recipe.yaml"
    recipe.write_text(
        f"""
arm: speed
out: {recipe.parent}
model: {{path: {tiny_model}, lora: {{r: 4}}}}
data: {{shards: {tone_shards}}}
train: {{max_steps: 1, global_batch: 8, micro_batch: 2, optimizer: {{lr: 1.0e-3}}}}
sketch: {{enabled: false}}
"""
    )
    done = run_ranks("tests.dist.speed_worker", recipe, timeout_s=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("NUMBERS "))
    return json.loads(line.removeprefix("NUMBERS "))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_switch_leaves_losses_gradients_and_scores_as_they_are(
    numbers: dict[str, Any], kind: str, way: str
) -> None:
    apart = numbers[f"{kind}-{way}"]
    assert apart["losses"] < 1e-5 and apart["gradient"] < 1e-4 and apart["score"] < 1e-4, apart


def test_a_runs_log_and_mlflow_say_how_fast_it_went(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "runs"
    done = run_ranks("pipeline.cli.train", "-c", write_recipe(out, max_steps=10), "eval.test_per_dataset=2")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "samples/s" in done.stdout
    steps = [e for e in read_event_lines(out / "arms/short-s0/events-rank0.jsonl")[0] if e["event"] == "step"]
    assert len(steps) == 10
    for event in steps:
        speed = event["throughput"]
        assert set(speed) == {"samples_per_s", "tokens_per_s", "audio_s_per_s", "data_wait_share"}  # no MFU of a CPU
        assert min(speed.values()) > 0 and speed["data_wait_share"] < 1
        assert 0.1 < event["memory"]["rss_gib"] <= event["memory"]["rss_peak_gib"] * 1.01
        assert event["skipped"] == 0 and event["lr"] > 0 and event["grad_norm"] > 0
    # A step's seconds are part of the run's, of which evaluation is another part.
    seconds = sum(8 / event["throughput"]["samples_per_s"] for event in steps[:1])
    assert 0 < seconds < steps[0]["wall_s"]
    assert steps[-1]["throughput"]["tokens_per_s"] > steps[-1]["tokens"] / steps[-1]["wall_s"]
    found = metric_steps(out / "mlflow.db")
    for name in ("throughput/samples_per_s", "throughput/data_wait_share", "memory/rss_gib", "skipped", "lr"):
        assert found[f"train/{name}"] == {10: pytest.approx(_at(steps[9], name))}


def metric_steps(database: Path) -> dict[str, dict[int, float]]:
    """Metric -> step -> value, of the only run that has metrics."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{database}")
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = [run for run in client.search_runs(experiments) if "train/loss" in run.data.metrics]
    assert len(runs) == 1
    names = runs[0].data.metrics
    return {name: {m.step: m.value for m in client.get_metric_history(runs[0].info.run_id, name)} for name in names}


def _at(event: dict[str, Any], name: str) -> float:
    for part in name.split("/"):
        event = event[part]
    return event

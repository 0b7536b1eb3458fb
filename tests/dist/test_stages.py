"""A recipe file with stages: each trains on from what the one before it saved, all weights or adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.runlog.events import read_event_lines
from tests.launching import run_command, run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.long]

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
{stages}"""
WHOLE_THEN_ADAPTERS = """
  - name: align
    model: {parts: {encoder: full, aligner: full, llm: full}}
    train: {optimizer: {lr: 5.0e-3}}
  - name: instruct
    model: {parts: {encoder: frozen, aligner: full, llm: lora}}
    data: {datasets: [animal, number]}
"""
# The two phases of arXiv 2601.12494, and a third with other adapters.
ADAPTERS_THROUGHOUT = """
  - name: phase1
    model: {parts: {encoder: full, aligner: full, llm: lora}}
    train: {optimizer: {lr: 5.0e-3}}
  - name: phase2
    model: {parts: {encoder: frozen, aligner: frozen, llm: lora}}
    train: {optimizer: {lr: 5.0e-3}}
  - name: phase3
    model: {adapters: merge, lora: {r: 2}, parts: {encoder: frozen, aligner: frozen, llm: lora}}
    train: {save_model: true}
"""


def losses(run: Path, event: str) -> list[float]:
    """Mean validation loss of `animal` and `number` at every evaluation."""
    found = [e["datasets"] for e in read_event_lines(run / "events-rank0.jsonl")[0] if e["event"] == event]
    return [(each["animal"]["loss"] + each["number"]["loss"]) / 2 for each in found]


def test_each_stage_starts_from_the_model_of_the_one_before(
    tone_shards: Path, tiny_model: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "two.yaml"
    recipe.write_text(
        RECIPE.format(out=tmp_path / "out", model=tiny_model, shards=tone_shards, stages=WHOLE_THEN_ADAPTERS)
    )
    done = run_ranks("pipeline.cli.train", "-c", recipe)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    align, instruct = (tmp_path / "out" / "arms" / f"two-{name}-s0" for name in ("align", "instruct"))
    before, after = losses(align, "eval"), losses(instruct, "eval")
    assert after[0] == pytest.approx(before[-1], rel=1e-5) and before[-1] < before[0]
    assert set(json.loads((instruct / "result.json").read_text())["datasets"]) == {"animal", "number"}
    again = run_ranks("pipeline.cli.train", "-c", recipe)
    assert again.returncode == 0 and again.stdout.count("already finished") == 2


def test_adapters_learn_on_beside_what_else_was_trained(tone_shards: Path, tiny_model: Path, tmp_path: Path) -> None:
    recipe, out = tmp_path / "phases.yaml", tmp_path / "out"
    recipe.write_text(RECIPE.format(out=out, model=tiny_model, shards=tone_shards, stages=ADAPTERS_THROUGHOUT))
    done = run_ranks("pipeline.cli.train", "-c", recipe)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    first, second, third = (out / "arms" / f"two-phase{n}-s0" for n in (1, 2, 3))
    assert losses(second, "eval")[0] == losses(first, "eval")[-1]
    assert losses(third, "eval")[0] == pytest.approx(losses(second, "eval")[-1], rel=1e-5)

    saved, trained = (load_file(run / "model" / "adapter_model.safetensors") for run in (first, second))
    assert saved.keys() == trained.keys()
    moved = {name for name in saved if not torch.equal(saved[name], trained[name])}
    assert moved == {name for name in saved if "lora_" in name}
    assert json.loads((second / "model" / "export.json").read_text())["model"]["path"] == str(tiny_model)

    again = run_command("gst", "export", third, "--out", tmp_path / "whole")
    assert again.returncode == 0 and "whole model" in again.stdout, again.stderr
    weights = [load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", third / "model")]
    assert weights[0].keys() == weights[1].keys() == load_file(tiny_model / "model.safetensors").keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-6, atol=1e-6)

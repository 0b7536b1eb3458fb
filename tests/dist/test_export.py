"""A run on two ranks, exported at its end and from its checkpoints: the weights that the recipe judges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.launching import run_command, run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow]

RECIPE = """
arm: saved
out: {out}
model: {{path: {model}, lora: {{r: 4, dropout: 0.1}}}}
data: {{shards: {shards}, datasets: [animal, height]}}
train:
  max_steps: 6
  global_batch: 8
  micro_batch: 2
  optimizer: {{lr: 5.0e-3}}
  eval_every: 2
  checkpoint_every: 3
  keep_checkpoints: 4
  averaging: {{kind: ema, decay: 0.5}}
  keep_best: {{metric: val/macro/loss, mode: max}}
  save_model: true
eval: {{val_per_dataset: 4, test_per_dataset: 6, micro_batch: 4}}
sketch: {{enabled: false}}
logging: {{mlflow: false}}
"""
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def run(tone_shards: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose best evaluation (`mode: max` of a falling loss) is not its last."""
    folder = tmp_path_factory.mktemp("saved")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(out=folder / "out", model=tiny_model, shards=tone_shards))
    done = run_ranks("pipeline.cli.train", "-c", recipe)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "out" / "arms" / "saved-s0"


def export(run: Path, out: Path, *options: str) -> dict[str, object]:
    done = run_command("gst", "export", run, "--out", out, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    return {"said": done.stdout, **json.loads((out / "export.json").read_text())} if "--merged" not in options else {}


def same(one: Path, other: Path) -> bool:
    first, second = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert first.keys() == second.keys() and first
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_checkpoint_gives_the_weights_that_the_run_tested(run: Path, tmp_path: Path) -> None:
    found = export(run, tmp_path / "best")
    assert (
        found["weights"] == {"step": 2, "kind": "ema", "best": "val/macro/loss"} and "averaged (ema)" in found["said"]
    )
    assert same(tmp_path / "best", run / "model")
    assert json.loads((run / "model" / "export.json").read_text())["weights"] == found["weights"]
    cards = [(folder / "README.md").read_text() for folder in (tmp_path / "best", run / "model")]
    result = json.loads((run / "result.json").read_text())["datasets"]["animal"]
    assert all(f"| animal | 6 | {result['loss']:.4f} |" in card for card in cards)
    last = export(run, tmp_path / "last", "--checkpoint", "last")
    assert last["weights"] == {"step": 6, "kind": "ema", "best": None}
    assert not same(tmp_path / "last", run / "model")
    assert "were not tested" in (tmp_path / "last" / "README.md").read_text()


def test_an_export_scores_what_the_run_scored(run: Path, tmp_path: Path) -> None:
    """Adapters and merged, whatever the recipe would train."""
    export(run, tmp_path / "merged", "--merged")
    tested = json.loads((run / "result.json").read_text())["datasets"]
    for name, folder, tolerance in (("adapters", run / "model", 1e-6), ("merged", tmp_path / "merged", 1e-5)):
        words = [f"model.path={folder}", f"out={tmp_path / name}", "model.lora.r=16", "train.seed=7"]
        done = run_command("gst", "eval", "-c", run / "recipe.yaml", *words)
        assert done.returncode == 0, done.stderr[-3000:]
        scored = json.loads((tmp_path / name / "arms" / "original-s7" / "result.json").read_text())["datasets"]
        for dataset, score in tested.items():
            assert scored[dataset]["loss"] == pytest.approx(score["loss"], rel=tolerance)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--checkpoint", "5"], "expected: best, last or one of 2, 3, 6"),
        (["--checkpoint", "lst"], "no such checkpoint"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_refused(run: Path, tmp_path: Path, options: list[str], text: str) -> None:
    done = run_command("gst", "export", run, "--out", tmp_path / "no", *options)
    assert done.returncode == 2 and text in done.stderr and not (tmp_path / "no").exists()

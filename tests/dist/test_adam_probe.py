"""A probe of Adam-preconditioned gradients: what plain torch computes, on one rank and on two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.affinity.estimator import GradientStats
from pipeline.affinity.payload import load_stats
from tests.launching import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.long]
K = 4096


def probed(folder: Path, shards: Path, model: Path, ranks: int) -> GradientStats:
    folder.mkdir()
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""
arm: probe
out: {folder}
model: {{path: {model}, lora: {{r: 4}}}}
data: {{shards: {shards}}}
train:
  max_steps: 3
  global_batch: 4
  micro_batch: 2
  optimizer: {{lr: 1.0e-2}}
  lr_schedule: {{kind: constant, warmup_steps: 0}}
sketch: {{k: {K}, mode: partition, gradient: adam}}
probe: {{warmup_steps: 3, batches_per_dataset: 4, micro_batch: 2}}
"""
    )
    done = run_ranks("tests.dist.adam_probe_worker", recipe, folder, ranks=ranks)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return load_stats((folder / "stats.safetensors").read_bytes())


def test_the_probe_sketches_what_plain_adam_would_divide(tone_shards: Path, tiny_model: Path, tmp_path: Path) -> None:
    alone = probed(tmp_path / "one", tone_shards, tiny_model, 1)
    reference = np.load(tmp_path / "one" / "reference.npz")
    assert alone.spec["gradient"] == "adam" and alone.count.tolist() == [4] * 4
    ours = alone.sum / alone.weights[0][:, None]
    errors = np.linalg.norm(ours - reference["sketch"], axis=1) / np.linalg.norm(reference["sketch"], axis=1)
    assert errors.max() < 1e-2  # Adam blows up the rounding of elements that hardly have a gradient

    unit = reference["mean"] / np.linalg.norm(reference["mean"], axis=1, keepdims=True)
    sketched = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    cosines, approximate = unit @ unit.T, sketched @ sketched.T
    assert np.abs(approximate - cosines).max() < 4 / np.sqrt(K)
    assert np.ptp(cosines[np.triu_indices(4, 1)]) > 4 / np.sqrt(K), "else any sketch would do"

    both = probed(tmp_path / "two", tone_shards, tiny_model, 2)
    assert both.count.tolist() == alone.count.tolist() and both.spec == alone.spec
    for name in ("sum", "sum_sq", "half_sum"):
        expected = getattr(alone, name)
        assert np.abs(getattr(both, name) - expected).max() < 1e-3 * np.abs(expected).max(), name

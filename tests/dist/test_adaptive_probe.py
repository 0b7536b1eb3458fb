"""A probe that goes on where gradients are not clear: the same on one rank and on two, and shared between jobs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.affinity.adaptive import more_batches_needed
from pipeline.affinity.estimator import GradientStats
from pipeline.affinity.payload import load_stats
from tests.launching import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.long]
MOST = 9  # of 12 micro-batches of 2 examples


def probed(
    folder: Path, shards: Path, model: Path, ranks: int, part: int = 0, parts: int = 1
) -> tuple[GradientStats, str]:
    folder.mkdir()
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""
arm: probe
out: {folder}
model: {{path: {model}, lora: {{r: 4}}}}
data: {{shards: {shards}}}
train: {{max_steps: 3, global_batch: 4, micro_batch: 2, optimizer: {{lr: 1.0e-2}}}}
sketch: {{k: 256}}
probe: {{warmup_steps: 2, batches_per_dataset: 3, max_batches: {MOST}, width: 0.05, micro_batch: 2}}
"""
    )
    done = run_ranks("tests.dist.probe_worker", recipe, folder, part, parts, ranks=ranks)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return load_stats((folder / "stats.safetensors").read_bytes()), done.stdout


def test_rounds_do_not_depend_on_ranks_and_jobs_share_the_micro_batches(
    tone_shards: Path, tiny_model: Path, tmp_path: Path
) -> None:
    alone, said = probed(tmp_path / "one", tone_shards, tiny_model, 1)
    both, _ = probed(tmp_path / "two", tone_shards, tiny_model, 2)
    assert alone.count.max() == MOST and more_batches_needed(alone, most=MOST, width=0.05) == {}
    assert said.count("probe: ") >= 2 and "3 -> " in said
    assert both.count.tolist() == alone.count.tolist()
    for name in ("sum", "sum_sq", "half_sum", "tokens"):
        assert np.allclose(getattr(both, name), getattr(alone, name), rtol=1e-3, atol=1e-4), name
    assert alone.batches is not None and alone.group_batches is not None and both.batches is not None
    for one, two in zip(alone.batches, both.batches, strict=True):
        assert np.allclose(one, two, rtol=1e-3, atol=1e-4)
    assert alone.cost["samples"] == 2 * (alone.count.sum() + 2 * 2), "every probed example, and two steps of four"
    assert alone.cost["backwards"] == alone.count.sum()

    part, _ = probed(tmp_path / "part", tone_shards, tiny_model, 1, part=1, parts=2)
    assert part.batches is not None and part.count.max() <= MOST // 2
    for whole, mine in zip(alone.batches, part.batches, strict=True):
        expected = whole[1::2][: len(mine)]
        assert np.allclose(mine[: len(expected)], expected, rtol=1e-3, atol=1e-4)

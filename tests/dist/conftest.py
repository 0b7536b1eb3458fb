"""A short run on four tone corpora with two stages, as a recipe file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write_recipe(tone_shards: Path, tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """`write_recipe(out)` -> a recipe file whose run lands in `out/arms/short-s0`."""

    def write(out: Path, max_steps: int = 12) -> Path:
        file = tmp_path / f"recipe-{out.name}.yaml"
        file.write_text(
            f"""
arm: short
out: {out}
model: {{path: {tiny_model}, lora: {{r: 4, dropout: 0.1}}}}
data: {{shards: {tone_shards}}}
train:
  max_steps: {max_steps}
  global_batch: 8
  micro_batch: 2
  optimizer: {{lr: 5.0e-3}}
  eval_every: 3
  checkpoint_every: 3
eval: {{val_per_dataset: 4, micro_batch: 4}}
sketch: {{k: 256, window_steps: 4, form: ema, half_life: 6, second_seed_every: 2}}
schedule:
  regime: gst
  grouping: explicit
  explicit: [[height, colour], [animal, number]]
  stage: {{max_share: 0.4}}
"""
        )
        return file

    return write

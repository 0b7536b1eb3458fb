"""Every kind of DeepSpeed configuration trains on two ranks, and holds what the memory estimate says it holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.deepspeed import DS_CONFIGS
from tests.bench.mini_data import measure_on_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow]
STEPS = 2
ALL_LEARN = "model.parts={encoder: full, aligner: full, llm: full}"
RUNS = {
    "zero3-adapters-fp32": ("cpu_zero3.json", []),
    "zero3-all-bf16": ("full_7b_a100.json", [ALL_LEARN, "model.dtype=bf16"]),
    "zero2-adapters-bf16": ("zero2.json", ["model.dtype=bf16"]),
    "offload-all-fp32": ("zero3_offload.json", [ALL_LEARN, "train.optimizer.options={fused: true}"]),
}


@pytest.fixture(params=RUNS)
def numbers(request: pytest.FixtureRequest, write_recipe: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    config, overrides = RUNS[request.param]
    # The shipped file with a bucket that is not larger than the whole tiny model.
    text = (DS_CONFIGS / config).read_text().replace('"reduce_bucket_size": 200000000', '"reduce_bucket_size": 50000')
    text = text.replace('"reduce_bucket_size": 50000000', '"reduce_bucket_size": 50000')
    file = tmp_path / config
    file.write_text(
        text.replace('stage3_param_persistence_threshold": 1000000', 'stage3_param_persistence_threshold": 1000')
    )
    return measure_on_ranks(
        "tests.dist.memory_worker", write_recipe(tmp_path / "run"), f"engine.deepspeed={file}", "logging.mlflow=false",
        "sketch.enabled=false", *overrides,
    )  # fmt: skip


def test_tensors_take_what_the_estimate_says(numbers: dict[str, Any]) -> None:
    assert len(numbers["losses"]) == STEPS and all(map(math.isfinite, numbers["losses"]))
    assert numbers["shape"] == numbers["parameters"]
    for name, held in numbers["held"].items():
        assert held == pytest.approx(numbers["expected"].get(name, 0), rel=0.05, abs=200), name
    assert numbers["in_all"] == pytest.approx(sum(numbers["expected"].values()), rel=0.05)

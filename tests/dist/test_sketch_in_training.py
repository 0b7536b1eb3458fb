"""The real launcher, two ranks, ZeRO-3: hooks = DeepSpeed's averaged gradient = probe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launching import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow]


@pytest.fixture(scope="module", params=["lora", "full"])
def numbers(request: pytest.FixtureRequest, tone_shards: Path, tiny_model: Path, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("sketch")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""
arm: sketch
out: {folder}
model: {{path: {tiny_model}, mode: {request.param}, lora: {{r: 4}}}}
data: {{shards: {tone_shards}}}
train: {{max_steps: 3, global_batch: 8, micro_batch: 2, optimizer: {{lr: 1.0e-2}}}}
sketch: {{k: 1024}}
"""
    )
    done = run_ranks("tests.dist.sketch_worker", recipe, folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("NUMBERS "))
    return json.loads(line.removeprefix("NUMBERS "))


def test_a_sketch_taken_in_training_is_the_sketch_of_the_averaged_gradient(numbers: dict) -> None:
    for step in numbers["steps"]:
        assert step["norm"] > 1e-6
        assert step["relative_difference"] < 1e-4


def test_a_probe_agrees_and_changes_nothing(numbers: dict) -> None:
    probe = numbers["probe"]
    assert probe["backwards"] == 2  # 4 micro-batches on 2 ranks
    assert probe["parameters_changed"] == 0
    assert probe["against_hooks"] < 1e-4 and probe["against_exact"] < 1e-4

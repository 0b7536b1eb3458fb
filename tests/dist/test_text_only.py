"""ZeRO-3 on two ranks, of which one has no audio: the ranks stay in step."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.mini_data import measure_on_ranks

pytestmark = [pytest.mark.dist, pytest.mark.slow]
STEPS = 4


def test_a_rank_without_audio_trains_beside_one_with(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "text")
    numbers = measure_on_ranks("tests.dist.text_only_worker", recipe, "model.lora.dropout=0", "logging.mlflow=false")
    assert len(numbers["losses"]) == STEPS and all(map(math.isfinite, numbers["losses"]))
    assert numbers["losses"][0] == pytest.approx(numbers["expected_first"], rel=1e-5)

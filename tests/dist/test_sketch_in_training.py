"""The real launcher and ZeRO-3: what hooks, probes and slices sketch is DeepSpeed's averaged gradient, everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.runlog.events import read_event_lines
from tests.dist.matrix_cells import CELLS, GAS
from tests.launching import run_ranks
from tests.selection import few, selected

pytestmark = [pytest.mark.dist, pytest.mark.slow]
IN_CI = ("fp32-none-lora-persist_0", "bf16-nonreentrant-full-persist_default", "fp16-reentrant-lora-persist_0")
IDS = (*IN_CI, *(cell.id for cell in CELLS if cell.id not in IN_CI))
# Relative error of a hook's sketch against a plain model's gradient, and against the mean that DeepSpeed reduced in the
# parameters' own precision (2^-9 and 2^-12 a rounding, times a few).
TOLERANCE = {"fp32": (1e-5, 1e-5), "bf16": (8e-2, 1e-2), "fp16": (1e-2, 1e-3)}


def write_short_recipe(folder: Path, shards: Path, model: Path, **keys: Any) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(
        f"""
arm: sketch
out: {folder}
model: {{path: {model}, lora: {{r: 4}}}}
data: {{shards: {shards}}}
train: {{max_steps: 3, global_batch: 12, micro_batch: 2, optimizer: {{lr: 1.0e-2}}}}
sketch: {{k: 1024}}
"""
    )
    return file


def numbers_of(module: str, recipe: Path, folder: Path, *words: str, ranks: int) -> dict[str, Any]:
    done = run_ranks(module, recipe, folder, *words, ranks=ranks)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("NUMBERS "))
    return json.loads(line.removeprefix("NUMBERS "))


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest, tone_shards: Path, tiny_model: Path, tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("matrix")
    recipe = write_short_recipe(folder, tone_shards, tiny_model)
    return numbers_of("tests.dist.sketch_matrix", recipe, folder, *selected(request, "cell"), ranks=2)


@pytest.mark.parametrize("gas", GAS)
@pytest.mark.parametrize("cell", few(IDS, len(IN_CI)))
def test_hooks_sketch_the_gradient(matrix: dict[str, Any], cell: str, gas: int) -> None:
    to_plain, to_reduced = TOLERANCE[cell.split("-")[0]]
    numbers = matrix[f"{cell}-gas{gas}"]
    assert numbers["norm"] > 0.1
    assert numbers["plain"] < to_plain
    assert numbers["mean"] < to_reduced
    assert numbers["partition"] < to_reduced


@pytest.mark.parametrize("special", ["offloaded", "tied", "partly_frozen"])
def test_hooks_sketch_the_gradient_of_special_models(matrix: dict[str, Any], special: str) -> None:
    numbers = matrix[special]
    assert numbers["norm"] > 0.1
    assert numbers.get("plain", 0.0) < 1e-5 and numbers["mean"] < 1e-5 and numbers["partition"] < 1e-5
    assert numbers.get("frozen_hooked", 0) == 0


def test_overflowing_gradients_are_dropped_and_counted(matrix: dict[str, Any]) -> None:
    assert matrix["overflowing"] == {"kept": False, "dropped": 2, "count": 0, "finite": True, "steps": 0}


def test_fp16_is_refused_in_plain_words_where_deepspeed_cannot(matrix: dict[str, Any]) -> None:
    assert matrix["fp16_on_this_cpu"] == "" or "bf16 or fp32" in matrix["fp16_on_this_cpu"]


def test_a_module_in_two_reentrant_segments_is_refused_in_plain_words(matrix: dict[str, Any]) -> None:
    outcome = matrix["reused_in_two_segments"]
    assert outcome["False"] == "sketched"
    assert "twice in one backward" in outcome["True"] and "use_reentrant=False" in outcome["True"]


@pytest.fixture(scope="module")
def worlds(tone_shards: Path, tiny_model: Path, tmp_path_factory) -> dict[int, dict[str, Any]]:
    """The same training on one, two and three ranks: 6, 3 and 2 accumulation steps."""
    found = {}
    for ranks in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"world{ranks}")
        recipe = write_short_recipe(folder, tone_shards, tiny_model)
        found[ranks] = numbers_of("tests.dist.sketch_worker", recipe, folder, ranks=ranks)
        found[ranks]["window"] = dict(np.load(folder / "window.npz"))
    return found


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_three_ways_give_one_sketch(worlds: dict[int, dict[str, Any]], ranks: int) -> None:
    numbers = worlds[ranks]["one_dataset"]
    assert numbers["norm"] > 0.1
    assert numbers["counts"] == {"hook": 18, "raw": 3, "adam": 2, "sign_of_step": 3}
    assert all(numbers[key] < 1e-5 for key in ("hook", "partition_to_hook", "raw", "adam"))
    assert numbers["sign_of_step"] < 1e-3  # an element near zero may change its sign between two orders of summing


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_probe_agrees_and_changes_nothing(worlds: dict[int, dict[str, Any]], ranks: int) -> None:
    probe = worlds[ranks]["probe"]
    assert probe["backwards"] == 6
    assert probe["parameters_changed"] == 0
    assert probe["against_hooks"] < 1e-4 and probe["against_exact"] < 1e-4


@pytest.mark.long
@pytest.mark.parametrize("ranks", [2, 3])
def test_windows_do_not_depend_on_the_number_of_ranks(worlds: dict[int, dict[str, Any]], ranks: int) -> None:
    alone, together = worlds[1]["window"], worlds[ranks]["window"]
    assert alone["count"].min() >= 2 and alone["weight"].sum() == alone["tokens"].sum() > alone["count"].sum()
    for name, expected in alone.items():
        if name in ("count", "half_count", "tokens", "weight", "weight_sq", "dropped"):
            assert np.array_equal(together[name], expected), name
        else:
            assert np.abs(together[name] - expected).max() < 1e-5 * np.abs(expected).max(), name


@pytest.mark.long
def test_steps_of_several_datasets_are_skipped_in_plain_words(worlds: dict[int, dict[str, Any]]) -> None:
    window = worlds[2]["mixed"]["window"]
    assert window["steps"] == {"sketched": 0, "mixed": 3, "without_second_moment": 0}
    assert "sketch.mode=hook" in window["note"]


@pytest.mark.long
def test_training_in_partition_mode(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "partition"
    sketch = ("sketch.mode=partition", "sketch.gradient=adam", "sketch.window_steps=2", "sketch.second_seed_every=1")
    groups = "schedule.explicit=[[height], [animal, colour, number]]"
    done = run_ranks("pipeline.cli.train", "-c", write_recipe(out, max_steps=8), *sketch, groups)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    events = read_event_lines(out / "arms" / "short-s0" / "events-rank0.jsonl")[0]
    windows = [event for event in events if event["event"] == "sketch"]
    entered = next(event["step"] for event in events if event["event"] == "stage" and event["step"] > 0)
    for window in windows:
        steps = window["steps"]
        if window["step"] <= entered:
            assert steps == {
                "sketched": 2 - (window["step"] == 2),
                "mixed": 0,
                "without_second_moment": steps["without_second_moment"],
            }
            assert steps["without_second_moment"] == (window["step"] == 2)
            assert window["second_seed"]["micro_batches"] == window["micro_batches"] == steps["sketched"]
    assert windows[-1]["steps"]["mixed"] == 2 and "there is no sketch" in windows[-1]["note"]
    assert "there is no sketch" in done.stdout

"""`gst validate`: what would not run is a row with a way out, and the exit code says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.checks.fit import Cluster
from pipeline.cli.main import app, register
from pipeline.cli.validate import Finding, examine
from pipeline.config import Recipe, load_recipe
from pipeline.config.memory import GIB

SHAPE = "qwen2-audio-7b"


def recipe_of(tmp_path: Path, *overrides: str) -> Recipe:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"arm: big\nout: {tmp_path}\nmodel: {{path: no/such/model, dtype: bf16}}\ndata: {{shards: {tmp_path}/none}}\n"
        "train: {max_steps: 100, global_batch: 512, micro_batch: 8}\nengine: {deepspeed: lora_13b_a100.json}\n"
    )
    return load_recipe(file, overrides)


def cluster(world_size: int = 64, gpu_gib: float | None = None, host_gib: float | None = None) -> Cluster:
    return Cluster(world_size, 8, gpu_gib, host_gib)


def states(found: Finding) -> dict[str, str]:
    return {row.check: row.state for row in found.rows}


def test_a_large_model_on_many_gpus_is_judged_without_any(tmp_path: Path) -> None:
    found = examine(recipe_of(tmp_path), cluster(gpu_gib=79.2, host_gib=1024), SHAPE, elsewhere=True)
    assert found.estimate is not None and states(found)["memory of a GPU"] == "ok"
    assert {row.check for row in found.rows if row.state != "ok"} == {"data", "weights"}  # and these are warnings
    assert set(states(found).values()) == {"ok", "warn"}
    assert found.estimate.shape.total > 8 * 10**9
    assert found.estimate.deepspeed_gpu and found.estimate.gpu_states < found.estimate.deepspeed_gpu
    here = examine(recipe_of(tmp_path), cluster(), SHAPE, elsewhere=False)
    assert (states(here)["data"], states(here)["weights"]) == ("bad", "bad")


def test_full_training_is_near_deepspeeds_own_estimate(tmp_path: Path) -> None:
    full = recipe_of(
        tmp_path, "model.parts={encoder: full, aligner: full, llm: full}", "engine.deepspeed=full_7b_a100.json"
    )
    found = examine(full, cluster(64), SHAPE, elsewhere=True).estimate
    assert found is not None and found.deepspeed_gpu is not None
    # Both count 18 bytes a parameter; theirs adds the largest module, ours the step's gradients and gathered weights.
    largest = 4 * found.shape.largest_module
    assert found.gpu_states == pytest.approx(found.deepspeed_gpu - largest, rel=0.35)


def test_what_does_not_fit_is_bad_and_the_largest_part_is_named(tmp_path: Path) -> None:
    small = examine(recipe_of(tmp_path), cluster(gpu_gib=22.0, host_gib=8), SHAPE, elsewhere=True)
    rows = {row.check: row for row in small.rows}
    assert rows["memory of a GPU"].state == rows["host memory of a node"].state == "bad"
    assert "activation_checkpointing" in rows["memory of a GPU"].advice
    helped = examine(
        recipe_of(tmp_path, "train.speed.activation_checkpointing=true"), cluster(gpu_gib=22.0), SHAPE, elsewhere=True
    )
    assert states(helped)["memory of a GPU"] == "ok"
    assert helped.estimate and small.estimate and helped.estimate.gpu < small.estimate.gpu / 2


def test_ranks_share_what_they_can_map_of_the_base_model(tmp_path: Path) -> None:
    tight = cluster(host_gib=64)
    mapped = examine(recipe_of(tmp_path), tight, SHAPE, elsewhere=True)
    cast = examine(recipe_of(tmp_path, "model.dtype=fp16"), tight, SHAPE, elsewhere=True)
    assert (states(mapped)["host memory of a node"], states(cast)["host memory of a node"]) == ("ok", "bad")
    assert "stored in model.dtype" in next(row.advice for row in cast.rows if row.check == "host memory of a node")
    assert mapped.estimate and cast.estimate and cast.estimate.host > 7 * mapped.estimate.host


def test_a_batch_that_cannot_be_dealt_is_bad_and_the_rest_is_still_said(tmp_path: Path) -> None:
    found = examine(recipe_of(tmp_path, "train.global_batch=128"), cluster(64), SHAPE, elsewhere=True)
    rows = {row.check: row for row in found.rows}
    assert rows["batch"].state == "bad" and "train.micro_batch=2" in rows["batch"].advice
    assert found.estimate is not None and rows["deepspeed"].state == "ok"


def test_checkpoints_that_do_not_fit_on_the_disk_are_bad(tmp_path: Path) -> None:
    full = recipe_of(
        tmp_path, "model.parts={encoder: full, aligner: full, llm: full}", "train.keep_checkpoints=1000000"
    )
    rows = {row.check: row for row in examine(full, cluster(), SHAPE, elsewhere=True).rows}
    assert rows["disk of runs"].state == "bad" and "keep_checkpoints" in rows["disk of runs"].advice


def test_an_unknown_model_says_what_could_not_be_checked(tmp_path: Path) -> None:
    found = examine(recipe_of(tmp_path), cluster(), "no/such/model", elsewhere=True)
    rows = {row.check: row for row in found.rows}
    assert rows["memory"].state == "warn" and found.estimate is None
    assert "no config of a model here" in rows["memory"].found


def run(*words: object) -> tuple[int, Any]:
    register(["validate"])
    done = CliRunner().invoke(app, ["validate", "--json", *map(str, words)])
    return done.exit_code, json.loads(done.stdout)


def test_data_and_model_that_are_there_are_measured(tone_shards: Path, tiny_model: Path, tmp_path: Path) -> None:
    here = [f"out={tmp_path}", f"data.shards={tone_shards}", f"model.path={tiny_model}"]
    code, told = run("-c", "mini-mix-all", "--world-size", 2, *here)
    (found,) = told["runs"]
    assert (code, told["state"]) == (0, "ok")
    rows = {row["check"]: row["found"] for row in found["rows"]}
    assert rows["batch"] == "16 = 4 (micro-batch) x 2 (accumulation) x 2 (ranks)"
    assert rows["data"] == "4 datasets, 96 training examples" and "60.00 epochs" in rows["budget"]
    memory = found["memory"]
    assert "a sample" in memory["longest"]["source"] and memory["longest"]["tokens"] > 100
    assert memory["gpu_bytes"] < 4 * GIB and {term["place"] for term in memory["terms"]} == {"gpu", "host", "node"}
    code, told = run("-c", "mini-mix-all", "--world-size", 3, *here)
    assert code == 2 and "does not divide" in json.dumps(told)


def test_every_run_of_a_recipe_with_stages_is_looked_at(tmp_path: Path) -> None:
    recipe_of(tmp_path)
    text = (tmp_path / "recipe.yaml").read_text()
    full = "{parts: {encoder: frozen, aligner: full, llm: frozen}}"
    (tmp_path / "two.yaml").write_text(f"{text}stages: [{{name: align, model: {full}}}, {{name: instruct}}]\n")
    code, told = run("-c", tmp_path / "two.yaml", "--world-size", 64, "--model-config", SHAPE, "--elsewhere")
    bad = {row["check"] for each in told["runs"] for row in each["rows"] if row["state"] == "bad"}
    assert code == (2 if bad else 0) and bad <= {"disk of runs"}  # the first run saves a whole model of 8 G parameters
    assert [each["arm"] for each in told["runs"]] == ["big-align", "big-instruct"]
    align, instruct = (each["memory"]["trainable_parameters"] for each in told["runs"])
    assert 0 < align < instruct

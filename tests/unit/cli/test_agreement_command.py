"""`gst agreement`: what an experiment has measured goes into one file, and what it has not is named there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.affinity.transfer_log import BASE, TransferHeader, TransferLine, TransferLog
from pipeline.affinity.versions import load_version
from pipeline.cli.affinity_link import affinity_folder, connect
from pipeline.cli.agreement import agreement, write_agreement
from pipeline.cli.group import group
from pipeline.cli.transfer_results import transfer_folder
from pipeline.config import Recipe, load_recipe
from pipeline.errors import AffinityError
from tests.launching import ROOT
from tests.unit.affinity.publishing import DATASETS, make_stats, put_probe

GRADIENT = ["distance", "cosine", "distance_raw", "cosine_raw"]
ADAM = ["sketch.mode=partition", "sketch.gradient=adam"]


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "arm: a\nmodel: {path: m}\ndata: {shards: s}\ntrain: {max_steps: 1}\nsketch: {k: 64}\n"
        f"out: {tmp_path / 'exp'}\naffinity: {{bootstrap: 20, groups: 2, metric: cosine}}\n"
    )
    return str(path)


def put_transfer(recipe: Recipe, done: int = 3) -> None:
    """What `gst transfer` leaves after `done` of its three trainings."""
    rng = np.random.default_rng(0)
    header = TransferHeader(source="s", datasets=DATASETS, trainings="source", steps=recipe.transfer.steps)
    losses = [dict(zip(DATASETS, rng.uniform(1, 2, 3).tolist(), strict=True)) for _ in range(4)]
    kinds = [BASE, *((name,) for name in DATASETS)][: 1 + done]
    cost = {"seconds": 10.0, "samples": 20.0, "tokens": 0.0, "steps": 1.0}
    lines = [TransferLine(trained_on=kind, losses=each, cost=cost) for kind, each in zip(kinds, losses, strict=False)]
    transfer_folder(recipe).mkdir(parents=True)
    TransferLog(transfer_folder(recipe), header, lines).save()


def test_everything_that_was_measured_is_compared(recipe_file: str, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    adam = load_recipe(recipe_file, [*ADAM, f"out={tmp_path / 'adam'}"])
    put_probe(recipe)
    put_probe(adam, make_stats(seed=1), gradient="adam")
    put_transfer(recipe)
    path = write_agreement(recipe, adam, recipe)
    assert path == affinity_folder(recipe) / "agreement.json"
    content = json.loads(path.read_text())
    views = {each["name"]: each for each in content["views"]}
    assert list(views) == [*GRADIENT, "distance_adam", "transferability"] and content["missing"] == []
    assert len(content["pairs"]) == 15
    assert len({views[name]["version"] for name in GRADIENT}) == 1
    assert views["distance_adam"]["version"] != views["distance"]["version"]
    assert views["transferability"]["cost"] == {"seconds": 40.0, "samples": 80.0}
    assert "source" in views["transferability"]["note"]
    stored = connect(recipe).version(views["transferability"]["version"])
    assert stored.groups == views["transferability"]["groups"]
    assert not (affinity_folder(recipe) / "latest").exists(), "it decides nothing about what training uses"
    group(recipe_file, ["affinity.metric=distance"])
    assert load_version(affinity_folder(recipe)).id == views["distance"]["version"]
    agreement(recipe_file, adam=str(tmp_path / "adam"))
    assert json.loads(path.read_text()) == content


def test_what_is_not_there_is_named(recipe_file: str, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    everything = [*GRADIENT, "distance_adam", "transferability"]
    assert json.loads(write_agreement(recipe, None, None).read_text())["missing"] == everything
    put_transfer(recipe, done=2)
    assert json.loads(write_agreement(recipe, None, recipe).read_text())["missing"] == everything
    put_probe(load_recipe(recipe_file, ["service.contributors=[main, other]"]))
    waiting = load_recipe(recipe_file, ["service.contributors=[main, other]"])
    assert json.loads(write_agreement(waiting, None, None).read_text())["missing"] == everything


def test_one_group_by_auto_is_one_group_everywhere(recipe_file: str) -> None:
    recipe = load_recipe(recipe_file, ["affinity.groups=auto"])
    put_probe(recipe)  # noise
    put_transfer(recipe)
    content = json.loads(write_agreement(recipe, None, recipe).read_text())
    assert [len(each["groups"]) for each in content["views"] if each["groups"]] == [1] * len(
        [each for each in content["views"] if each["groups"]]
    )
    assert all(pair["ari"] is None for pair in content["pairs"])


def test_a_probe_of_another_kind_is_an_error(recipe_file: str, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    put_probe(recipe)
    adam = load_recipe(recipe_file, [*ADAM, f"out={tmp_path / 'adam'}"])
    put_probe(adam)  # of raw gradients
    with pytest.raises(AffinityError, match="differ in gradient"):
        write_agreement(recipe, adam, None)


def test_it_needs_no_torch() -> None:
    code = "import sys, pipeline.cli.agreement; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

"""The commands refuse what they cannot do, in words, without a traceback, with an exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launching import run_command


def gst(*words: object):
    return run_command("gst", *words)


@pytest.fixture
def settings(tone_shards: Path, tiny_model: Path, tmp_path: Path) -> list[str]:
    return [f"out={tmp_path}", f"data.shards={tone_shards}", f"model.path={tiny_model}"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["train", "-c", "mini-mix-al"], "did you mean `mini-mix-all`?"),
        (["train", "-c", "mini-mix-all", "trian.seed=1"], "did you mean `train`?"),
        (["train", "-c", "mini-mix-all", "data.shards=no/such"], "no such shard folder"),
        (["probe", "-c", "mini-mix-all", "schedule.regime=pik"], "did you mean `pike`?"),
        (["serve", "no/such"], "no such folder to serve"),
        (["export", "no/such", "--out", "no/where"], "not the folder of a run"),
        (["generate", "--model", "m", "--audio", "no/such.wav"], "no such audio file"),
        (["bench", "prepar"], "prepare"),
        (["group", "-c", "mini-gst-g3", "out=no/such"], "gst probe"),
        (["report", "no/such"], "no/such"),
        (["trian"], "train"),
    ],
)
def test_a_mistake_is_named(words: list[str], text: str) -> None:
    done = gst(*words)
    assert done.returncode not in (0, 70)
    assert text in done.stderr and "Traceback" not in done.stderr


def test_validate_and_plan_need_no_launcher(settings: list[str]) -> None:
    valid = gst("validate", "-c", "mini-mix-all", *settings)
    assert valid.returncode == 0 and valid.stdout.splitlines()[-1] == "ok"
    refused = gst("validate", "-c", "mini-mix-all", "--world-size", 3, "--json", *settings)
    assert refused.returncode == 2 and "world size does not divide" in refused.stdout
    plan = gst("plan", "-c", "mini-mix-all", *settings)
    assert plan.returncode == 0
    for dataset in ("height", "colour", "animal", "number"):
        assert dataset in plan.stdout
    groups = gst("plan", "-c", "mini-gst-g3", *settings, f"schedule.affinity={settings[0].removeprefix('out=')}")
    assert groups.returncode == 2 and "affinity version" in groups.stderr


def test_a_dataset_that_is_not_there_is_named(settings: list[str]) -> None:
    done = gst("plan", "-c", "mini-mix-all", *settings, "data.datasets=[hight]")
    assert done.returncode == 2 and "hight" in done.stderr and "did you mean height" in done.stderr


def test_a_model_that_is_not_there_is_named(settings: list[str]) -> None:
    done = gst("train", "-c", "mini-mix-all", *settings, "model.path=no/such/model", "logging.mlflow=false")
    assert done.returncode == 2 and "cannot load a model" in done.stderr and "Traceback" not in done.stderr


def test_doctor_runs_anywhere() -> None:
    done = gst("doctor")
    assert done.returncode == 0 and "deepspeed" in done.stdout

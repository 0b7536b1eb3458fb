"""`bash run.sh` as a user runs it, on tone corpora with a base model that is already there."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from pipeline.runlog.events import read_event_lines
from tests.launching import run_command

pytestmark = [pytest.mark.dist, pytest.mark.slow]
SETTINGS = (
    "train.max_steps=12", "train.global_batch=8", "train.micro_batch=2", "train.eval_every=2",
    "train.checkpoint_every=6", "eval.val_per_dataset=6", "probe.warmup_steps=3", "probe.batches_per_dataset=4",
    "affinity.groups=2", "sketch.k=512",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(
    tone_corpora: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., CompletedProcess]:
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(tiny_model, folder / "base" / "model")

    def call(*more: str) -> CompletedProcess[str]:
        words = ["--active-env", "--corpora", tone_corpora, "--adapter", "jsonl", "--out", folder / "out"]
        words += ["--base", folder / "base", *(word for setting in SETTINGS for word in ("--set", setting)), *more]
        return run_command("bash", "run.sh", *words, timeout_s=600)

    call.out = folder / "out"
    return call


@pytest.fixture(scope="module")
def first(run: Callable[..., CompletedProcess]) -> CompletedProcess:
    done = run()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done


def test_it_ends_with_tables_for_all_arms(first: CompletedProcess, run) -> None:
    for text in ("Mix-all", "gst-g3", "gst-random-3", "original", "height", "report.html"):
        assert text.lower() in first.stdout.lower(), text
    for arm in ("mix_all", "gst-g3", "gst-random-3", "original"):
        result = json.loads((run.out / "arms" / f"{arm}-s0" / "result.json").read_text())
        assert sorted(result["datasets"]) == ["animal", "colour", "height", "number"]
        assert all(score["examples"] == 6 for score in result["datasets"].values())
    page = (run.out / "report" / "report.html").read_text()
    assert "gst-random-3" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_the_arms_differ_only_in_what_they_should(first: CompletedProcess, run) -> None:
    def stages(arm: str) -> list[dict]:
        events = read_event_lines(run.out / "arms" / f"{arm}-s0" / "events-rank0.jsonl")[0]
        return [event for event in events if event["event"] == "stage"]

    def first_eval(arm: str) -> dict:
        events = read_event_lines(run.out / "arms" / f"{arm}-s0" / "events-rank0.jsonl")[0]
        return next(event["datasets"] for event in events if event["event"] == "eval")

    assert [len(event["pool"]) for event in stages("mix_all")] == [4]
    gst, control = stages("gst-g3"), stages("gst-random-3")
    assert [len(event["pool"]) for event in gst] == [len(event["pool"]) for event in control]
    assert len(gst) == 2 and sorted(gst[-1]["pool"]) == ["animal", "colour", "height", "number"]
    assert first_eval("mix_all") == first_eval("gst-g3") == first_eval("gst-random-3")  # one base, one probe set


def test_a_second_run_does_nothing_again(first: CompletedProcess, run) -> None:
    results = {path: path.stat().st_mtime_ns for path in run.out.glob("arms/*/result.json")}
    started = time.monotonic()
    again = run()
    assert again.returncode == 0 and time.monotonic() - started < 60
    assert "already done" in again.stdout and "gst-random-3" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in run.out.glob("arms/*/result.json")} == results


@pytest.mark.long
def test_one_more_seed_trains_only_that_seed(first: CompletedProcess, run) -> None:
    more = run("--seeds", "2", "--arms", "mix_all")
    assert more.returncode == 0, more.stdout[-3000:] + more.stderr[-3000:]
    assert (run.out / "arms" / "mix_all-s1" / "result.json").exists()
    assert not (run.out / "arms" / "gst-g3-s1").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--corpora", "no/such/folder"], "no such folder: no/such/folder"),
        (["--seeds", "none"], "--seeds"),
        (["--sedes", "2"], "unknown option --sedes"),
        (["--out"], "--out needs a value"),
    ],
)
def test_a_bad_call_is_refused_at_once(words: list[str], text: str) -> None:
    done = run_command("bash", "run.sh", "--active-env", *words)
    assert done.returncode != 0 and text in done.stderr


def test_help_names_every_option() -> None:
    done = run_command("bash", "run.sh", "--help")
    assert done.returncode == 0
    for option in ("--corpora", "--adapter", "--out", "--arms", "--seeds", "--world-size", "--set", "test"):
        assert option in done.stdout

"""`bash run.sh tables` as a user runs it, on tone corpora and a small scale: killed, resumed, a cell that fails."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.launching import ROOT, environment, run_command

pytestmark = [pytest.mark.dist, pytest.mark.slow, pytest.mark.long]

SCALE = """
seeds: [0]
overrides:
  - train.max_steps=6
  - train.global_batch=8
  - train.micro_batch=2
  - train.eval_every=2
  - train.checkpoint_every=2
  - train.lr_schedule.warmup_steps=2
  - eval.val_per_dataset=4
  - eval.test_per_dataset=4
  - eval.generate_per_dataset=2
  - eval.max_new_tokens=4
  - probe.warmup_steps=2
  - probe.batches_per_dataset=4
  - affinity.groups=2
  - sketch.k=256
studies: {full: {}}
arms:
  mix_all: {recipe: mix-all}
  gst-g3: {recipe: gst-g3}
  broken: {recipe: mix-all, overrides: [train.global_batch=2]}
tables:
  T1: {study: full, arms: [original, mix_all, gst-g3, broken]}
search:
  axes:
    weights:
      is_weights: true
      candidates:
        t2: [schedule.weights.kind=temperature]
        uniform: [schedule.weights.kind=uniform]
"""


class Grid:
    """A grid folder and the command that works on it."""

    def __init__(self, folder: Path, corpora: Path, model: Path) -> None:
        self.out, scale = folder / "grid", folder / "small.yaml"
        scale.write_text(SCALE)
        shutil.copytree(model, folder / "base" / "model")
        self.words = ["bash", "run.sh", "tables", "--active-env", "--corpora", str(corpora), "--adapter", "jsonl"]
        self.words += ["--out", str(self.out), "--base", str(folder / "base"), "--scale", str(scale)]

    def call(self, *more: str) -> subprocess.CompletedProcess[str]:
        return run_command(*self.words, *more, timeout_s=900)

    def times(self) -> dict[str, int]:
        files = [*self.out.glob("*/arms/*/result.json"), *self.out.glob("full/probe/probe.json")]
        return {str(file.relative_to(self.out)): file.stat().st_mtime_ns for file in files}


@pytest.fixture(scope="module")
def grid(tone_corpora: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(tmp_path_factory.mktemp("tables"), tone_corpora, tiny_model)


@pytest.fixture(scope="module")
def first(grid: Grid) -> subprocess.CompletedProcess[str]:
    """Killed with all that it had started while it tuned the baseline, then called again."""
    log = grid.out.parent / "first.log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            grid.words, cwd=ROOT, env=environment(), stdout=output, stderr=output, start_new_session=True
        )
    second_candidate = grid.out / "tune" / "arms" / "weights-uniform-s1000" / "events-rank0.jsonl"
    until = time.monotonic() + 300
    while not (second_candidate.exists() and '"step": 2' in second_candidate.read_text()):
        assert time.monotonic() < until and process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)  # its ranks were told to end
    before = grid.times()
    done = grid.call()
    assert {name: stamp for name, stamp in grid.times().items() if name in before} == before
    return done


def test_it_says_beforehand_how_long_and_does_all_that_can_be_done(first: subprocess.CompletedProcess[str]) -> None:
    assert "One after the other they take about" in first.stdout
    assert "[" in first.stdout and "all that is left" in first.stdout
    assert first.returncode != 0, "one arm cannot run"
    assert "full/broken-s0 failed" in first.stdout and "1 task(s) failed" in first.stderr


def test_the_cell_of_the_failed_run_is_missing_and_the_others_are_numbers(
    first: subprocess.CompletedProcess[str], grid: Grid
) -> None:
    rows = {row["dataset"]: row for row in csv.DictReader((grid.out / "report" / "tables" / "T1.csv").open())}
    for dataset in ("animal", "colour", "height", "number", "weighted token accuracy"):
        row = rows[dataset]
        assert row["broken"] == "missing"
        for arm, run in (("Original", "original-s0"), ("Mix-all (tuned)", "mix_all-s0"), ("GST-G3", "gst-g3-s0")):
            assert 0 <= float(row[arm]) <= 100 and run in row[f"{arm} runs"] and row[f"{arm} n"] == "1"
    page = (grid.out / "report" / "report.html").read_text()
    assert "missing" in page and "mix_all-s0" in page
    for ending in ("html", "md", "tex", "csv"):
        assert (grid.out / "report" / "tables" / f"T1.{ending}").is_file()


def test_the_runs_use_what_the_search_found(first: subprocess.CompletedProcess[str], grid: Grid) -> None:
    import yaml

    tuned = yaml.safe_load((grid.out / "grid.yaml").read_text())["tuned"]
    assert set(tuned["scores"]) == {"weights: t2", "weights: uniform"}
    best = min(tuned["scores"], key=tuned["scores"].get).removeprefix("weights: ")
    assert tuned["chosen"] == {"weights": best}
    kinds = {"t2": "temperature", "uniform": "uniform"}
    for arm in ("mix_all", "gst-g3"):
        recipe = yaml.safe_load((grid.out / "full" / "arms" / f"{arm}-s0" / "recipe.yaml").read_text())
        assert recipe["schedule"]["weights"]["kind"] == kinds[best]
    run = json.loads((grid.out / "full" / "arms" / "gst-g3-s0" / "run.json").read_text())
    assert run["affinity_version"].startswith("v-") and run["code_digest"]


def test_a_second_call_trains_nothing_again(first: subprocess.CompletedProcess[str], grid: Grid) -> None:
    before = grid.times()
    again = grid.call()
    assert grid.times() == before
    assert "full/broken-s0 failed" in again.stdout, "a failed run is tried again"
    assert again.stdout.count("all that is left") == 1


def test_a_plan_runs_nothing(first: subprocess.CompletedProcess[str], grid: Grid) -> None:
    before = grid.times()
    done = grid.call("--plan")
    assert done.returncode == 0 and "runs:" in done.stdout and grid.times() == before


def test_other_settings_in_the_same_folder_are_refused(first: subprocess.CompletedProcess[str], grid: Grid) -> None:
    done = grid.call("--set", "train.max_steps=8")
    assert done.returncode != 0 and "other settings" in done.stderr and "--out" in done.stderr


def test_a_slurm_array_is_a_script_that_goes_on_with_the_grid(
    first: subprocess.CompletedProcess[str], grid: Grid
) -> None:
    done = grid.call("--sbatch", "3")
    script = grid.out / "workers.sbatch"
    assert done.returncode == 0 and f"sbatch {script}" in done.stdout
    assert run_command("bash", "-n", script).returncode == 0
    text = script.read_text()
    assert "#SBATCH --array=0-2" in text
    before = grid.times()
    worked = run_command("bash", script, timeout_s=600)  # as SLURM would run it
    assert "full/broken-s0 failed" in worked.stdout and grid.times() == before

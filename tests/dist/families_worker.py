"""Runs on every rank, see `test_families.py`: a short run of each model in turn, all in one process group."""

from __future__ import annotations

import gc
import json
import sys

from pipeline.cli.errors import run_guarded
from pipeline.cli.resume import Resume
from pipeline.cli.train import run_training
from pipeline.config import load_recipe


def work() -> None:
    """One rank's part."""
    *_, file, out, runs = sys.argv
    for arm, overrides in json.loads(runs).items():
        run_training(load_recipe(file, [f"out={out}", f"arm={arm}", *overrides]), Resume(never=True))
        gc.collect()


if __name__ == "__main__":
    run_guarded(work)

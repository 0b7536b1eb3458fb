"""Runs on every rank, see `test_regimes.py`: each regime twice in one process group, once stopped and resumed."""

from __future__ import annotations

import sys

from pipeline.cli.errors import run_guarded
from pipeline.cli.session import Data
from pipeline.config import Recipe, load_recipe
from pipeline.data.pools import task_sizes
from tests.dist.stopped_runs import Stop, train

STOP_AT = 6


def work() -> None:
    """One rank's part."""
    file, whole, broken, *regimes = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    for regime in regimes:
        train(recipe_of(file, whole, regime))
        try:
            train(recipe_of(file, broken, regime), stop_at=STOP_AT)
        except Stop:
            train(recipe_of(file, broken, regime))
    for name in ("animal", "number") if "individual" in regimes else ():
        alone = [f"arm=alone-{name}", f"out={whole}", f"data.datasets=[{name}]", "train.max_steps=3"]
        train(load_recipe(file, [*alone, "logging.mlflow=false"]))


def recipe_of(file: str, out: str, regime: str) -> Recipe:
    """The test's recipe under another regime; every task is of the first level."""
    overrides = [f"out={out}", f"arm={regime}", f"schedule.regime={regime}", "logging.mlflow=false"]
    recipe = load_recipe(file, overrides)
    tasks = sorted({task for counts in task_sizes(Data(recipe).index).values() for task in counts})
    return load_recipe(file, [*overrides, f"schedule.tpc.levels=[[{', '.join(tasks)}]]", "schedule.ads.clusters=5"])


if __name__ == "__main__":
    run_guarded(work)

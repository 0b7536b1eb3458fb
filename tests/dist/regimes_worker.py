"""Runs on every rank, see `test_regimes.py`: each regime twice in one process group, once stopped and resumed."""

from __future__ import annotations

import gc
import sys
from typing import Any

from pipeline.cli.errors import run_guarded
from pipeline.cli.session import Data, Session
from pipeline.cli.train import Run
from pipeline.config import Recipe, load_recipe, run_folder
from pipeline.config.schedule import REGIMES
from pipeline.data.pools import task_sizes

STOP_AT = 6


class Stop(Exception):
    """The run ends here, as if it had been killed right after a checkpoint."""


def work() -> None:
    """One rank's part."""
    file, whole, broken = sys.argv[-3:]
    for regime in REGIMES:
        train(recipe_of(file, whole, regime))
        try:
            train(recipe_of(file, broken, regime), stop_at=STOP_AT)
        except Stop:
            train(recipe_of(file, broken, regime))
    for name in ("animal", "number"):
        alone = [f"arm=alone-{name}", f"out={whole}", f"data.datasets=[{name}]", "train.max_steps=3"]
        train(load_recipe(file, [*alone, "logging.mlflow=false"]))


def recipe_of(file: str, out: str, regime: str) -> Recipe:
    """The test's recipe under another regime; every task is of the first level."""
    overrides = [f"out={out}", f"arm={regime}", f"schedule.regime={regime}", "logging.mlflow=false"]
    recipe = load_recipe(file, overrides)
    tasks = sorted({task for counts in task_sizes(Data(recipe).index).values() for task in counts})
    return load_recipe(file, [*overrides, f"schedule.tpc.levels=[[{', '.join(tasks)}]]", "schedule.ads.clusters=5"])


def train(recipe: Recipe, stop_at: int | None = None) -> None:
    """A run from its newest checkpoint on: to its end, or until the checkpoint of step `stop_at` is written."""
    data = Data(recipe)
    plan, folder = data.plan(), run_folder(recipe)
    session = Session(recipe, data, folder, plan)
    run = Run(session, plan, folder)
    if stop_at is not None:
        save, events = run.checkpoints.save, session.events

        def save_and_stop(engine: Any, step: int, *more: Any) -> None:
            save(engine, step, *more)
            if step == stop_at:
                events.close()
                raise Stop

        run.checkpoints.save = save_and_stop  # type: ignore[assignment,method-assign]
    try:
        run.execute(fresh=False)
    finally:
        del run, session
        gc.collect()


if __name__ == "__main__":
    run_guarded(work)

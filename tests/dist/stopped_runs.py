"""Trainings of one process group, some of which end early, as if they had been killed right after a checkpoint."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from pipeline.cli.session import Data, Session
from pipeline.cli.train import Run
from pipeline.config import Recipe, run_folder


class Stop(Exception):
    """The run ends here."""


def train(recipe: Recipe, stop_at: int | None = None, prepare: Callable[[Run], None] | None = None) -> None:
    """A run from its newest checkpoint on: to its end, or until the checkpoint of step `stop_at` is written.

    Args:
        prepare: changes the run before it begins.

    Raises:
        Stop: at `stop_at`.
    """
    data = Data(recipe)
    plan, folder = data.plan(), run_folder(recipe)
    session = Session(recipe, data, folder, plan)
    run = Run(session, plan, folder)
    if prepare is not None:
        prepare(run)
    if stop_at is not None:
        save, events = run.checkpoints.save, session.events

        def save_and_stop(engine: Any, step: int, *more: Any) -> None:
            save(engine, step, *more)
            if step == stop_at:
                events.close()
                raise Stop

        run.checkpoints.save = save_and_stop  # type: ignore[assignment,method-assign]
    try:
        run.execute()
    finally:
        del run, session
        gc.collect()

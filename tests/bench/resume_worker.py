"""Runs on every rank, see `resume.py`: the training of `gst train`, with the examples of every step in the log."""

from __future__ import annotations

from typing import Any

from pipeline.cli.errors import run_guarded
from pipeline.cli.session import Data, Session
from pipeline.cli.train import Run
from pipeline.config import load_recipe, run_folder
from pipeline.data.loader import TrainLoader
from pipeline.engine import shutdown
from pipeline.runlog import EventLog
from pipeline.types import MicroBatch
from tests.bench.mini_worker import worker_parser
from tests.bench.resume_log import SAMPLES


class LoggedLoader:
    """A loader that writes into the log what it hands out."""

    def __init__(self, loader: TrainLoader, events: EventLog) -> None:
        self._loader, self._events = loader, events

    def next_step(self) -> list[MicroBatch]:
        batches = self._loader.next_step()
        described = [[batch.dataset, list(batch.example_ids)] for batch in batches]
        self._events.write(SAMPLES, step=self._loader.step, batches=described)
        return batches

    @property
    def skipped(self) -> int:
        return self._loader.skipped

    def set_weights(self, weights: dict[str, float]) -> None:
        self._loader.set_weights(weights)

    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loader.load_state_dict(state)


def work() -> None:
    """One rank's part: train to the end, from the newest checkpoint if there is one."""
    options = worker_parser().parse_args()
    recipe = load_recipe(options.recipe, options.overrides)
    folder = run_folder(recipe)
    data = Data(recipe)
    plan = data.plan()
    session = Session(recipe, data, folder, plan)
    run = Run(session, plan, folder)
    run.trainer.loader = LoggedLoader(run.loader, session.events)
    run.execute()
    shutdown(session.comm)


if __name__ == "__main__":
    run_guarded(work)

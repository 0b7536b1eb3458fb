"""What benchmarks of training do on every rank: open a run on the mini corpora, build trainers, hand numbers back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pipeline import engine as engine_room
from pipeline.cli.session import Data, Session
from pipeline.config import load_recipe
from pipeline.runlog import RunConsole
from pipeline.schedule import StageController, build_plan
from tests.bench.mini_data import MARK

EVERY_S = 1e9  # no progress lines


def worker_parser() -> argparse.ArgumentParser:
    """Options that all workers take; `recipe` with its overrides comes last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int, default=0, help="the launcher says it")
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    return parser


def open_session(options: argparse.Namespace) -> Session:
    """The run that the recipe describes, its folder below the recipe's `out`."""
    recipe = load_recipe(options.recipe, options.overrides)
    return Session(recipe, Data(recipe), Path(recipe.out) / "bench")


def new_trainer(session: Session, weights: dict[str, float] | None = None) -> engine_room.Trainer:
    """A trainer without evaluation, checkpoints and recorder, from its step 0; None: the recipe's own mixture."""
    recipe, data, comm = session.recipe, session.data, session.comm
    controller = StageController(build_plan(recipe, data.sizes, data.domains), recipe)
    return engine_room.Trainer(
        recipe=recipe,
        engine=session.engine,
        loader=session.train_loader(weights or controller.weights, recipe.train.seed),
        controller=controller,
        evaluate=lambda: {},
        datasets=data.datasets,
        comm=comm,
        events=session.events,
        console=RunConsole(comm.rank, recipe.train.max_steps, "bench", every_s=EVERY_S),
    )


def hand_back(session: Session, numbers: dict[str, Any]) -> None:
    """The last thing a worker does; rank 0's numbers reach `measure_on_ranks`."""
    if session.comm.rank == 0:
        print(MARK + json.dumps(numbers), flush=True)
    engine_room.shutdown(session.comm)

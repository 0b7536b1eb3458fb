"""Runs on every rank, see `resume.py`: the loader alone goes on from a checkpoint's state and logs what it loads."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.cli.errors import run_guarded
from pipeline.cli.sampling import build_source
from pipeline.cli.session import Data
from pipeline.config import load_recipe
from pipeline.data.loader import TrainLoader
from pipeline.dist import launched_rank, launched_world_size
from pipeline.runlog import EventLog
from tests.bench.mini_worker import worker_parser
from tests.bench.resume_worker import LoggedLoader


def work() -> None:
    """One rank's part: load to the end of the run, with the weights that the schedule set on the way."""
    parser = worker_parser()
    parser.add_argument("--given", type=Path, required=True, help="JSON: the loader's `state`, `moves` of weights")
    parser.add_argument("--out", type=Path, required=True, help="folder for the logs")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.overrides)
    data = Data(recipe)
    plan = data.plan()
    seed = recipe.train.seed
    source, pools = build_source(recipe, data.index, plan, plan.stages[0].weights, seed)
    loader = TrainLoader(
        data.index,
        source,
        lambda examples: {},
        global_batch=recipe.train.global_batch,
        micro_batch=recipe.train.micro_batch,
        comm_rank=launched_rank(),
        world_size=launched_world_size(),
        seed=seed,
        workers=recipe.data.workers,
        pools=pools,
        bucket=recipe.data.bucket,
    )
    given = json.loads(options.given.read_text())
    loader.load_state_dict(given["state"])
    events = EventLog(options.out, launched_rank())
    logged = LoggedLoader(loader, events)
    while loader.step < recipe.train.max_steps:
        if str(loader.step) in given["moves"]:
            logged.set_weights(given["moves"][str(loader.step)])
        logged.next_step()
    events.close()
    loader.close()


if __name__ == "__main__":
    run_guarded(work)

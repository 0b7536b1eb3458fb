"""`gst eval`: score the untouched model on the test split: the `Original` row of every table."""

from __future__ import annotations

import json
import time
from pathlib import Path

import typer

from pipeline.atomic import write_atomic
from pipeline.cli.errors import run_guarded
from pipeline.cli.launch import launch
from pipeline.cli.options import LocalRank, Overrides, RanksOption, RecipeOption
from pipeline.cli.session import Data, Session, run_folder, scores_to_json
from pipeline.cli.train import git_sha, is_finished
from pipeline.config import Recipe, load_recipe, recipe_digest
from pipeline.dist import launched_rank


def evaluate(
    recipe: RecipeOption, overrides: Overrides = None, ranks: RanksOption = None, local_rank: LocalRank = 0
) -> None:
    """Score the recipe's model as it is; writes <out>/arms/original-s<seed>/result.json."""
    if ranks is not None:
        launch("pipeline.cli.evaluate", ["-c", recipe, *(overrides or [])], ranks)
    run_evaluation(load_recipe(recipe, overrides or ()).model_copy(update={"arm": "original"}))


def run_evaluation(recipe: Recipe) -> None:
    folder = run_folder(recipe)
    if is_finished(folder, recipe):
        if launched_rank() == 0:
            print(f"{folder}: already scored")
        return
    data = Data(recipe)
    from pipeline import engine as engine_room

    session = Session(recipe, data, folder)
    try:
        started = time.time()
        batches = session.fixed_batches("test", recipe.eval.test_per_dataset, recipe.eval.micro_batch)
        scores = scores_to_json(session.score(batches))
        if session.comm.rank == 0:
            _write(recipe, session, folder, scores, started)
    finally:
        engine_room.shutdown()


def _write(recipe: Recipe, session: Session, folder: Path, scores: dict[str, dict[str, float]], started: float) -> None:
    common = {"arm": recipe.arm, "seed": recipe.train.seed}
    run = {
        **common,
        "experiment": recipe.out,
        "status": "finished",
        "world_size": session.comm.world_size,
        "started": started,
        "finished": time.time(),
        "git_sha": git_sha(),
        "config_digest": recipe_digest(recipe),
        "data_digests": session.data.index.digests,
        "uses_affinity": False,
        "stop_reason": "not trained",
        "model": recipe.model.path,
    }
    counts = {"step": 0, "steps": 0, "samples": 0, "tokens": 0, "wall_s": 0.0}
    write_atomic(folder / "run.json", json.dumps(run, indent=1).encode())
    result = {**common, "split": "test", **counts, "datasets": scores}
    write_atomic(folder / "result.json", json.dumps(result, indent=1).encode())


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(evaluate)
    run_guarded(app)

"""`gst eval`: score the untouched model on the test split: the `Original` row of every table."""

from __future__ import annotations

import time

from pipeline.cli.launch import launch, run_as_module
from pipeline.cli.options import LocalRank, Overrides, RanksOption, RecipeOption
from pipeline.cli.records import is_finished, write_result, write_run
from pipeline.cli.session import Data, Session
from pipeline.config import Recipe, load_recipe, run_folder
from pipeline.dist import launched_rank
from pipeline.runlog import MlflowLog, RunFolder
from pipeline.types import Clock


def evaluate(
    recipe: RecipeOption, overrides: Overrides = None, ranks: RanksOption = None, local_rank: LocalRank = 0
) -> None:
    """Score the recipe's model as it is; writes <out>/arms/original-s<seed>/result.json."""
    if ranks is not None:
        launch("pipeline.cli.evaluate", ["-c", recipe, *(overrides or [])], ranks)
    run_evaluation(load_recipe(recipe, overrides or ()).model_copy(update={"arm": "original"}))


def run_evaluation(recipe: Recipe) -> None:
    """Score the test split with the model as it is; writes `run.json` and `result.json`. Raises what `Session` does."""
    folder = run_folder(recipe)
    if is_finished(folder, recipe):
        if launched_rank() == 0:
            print(f"{folder}: already scored")
        return
    data = Data(recipe)
    from pipeline import engine as engine_room

    session = Session(recipe, data, folder)
    started = time.time()
    clock = Clock()
    examples = session.test(clock.step, data.datasets)
    write_run(session, folder, status="finished", started=started, stop_reason="not trained", uses_affinity=False)
    results = write_result(session, folder, clock, examples)
    if results:
        print(f"{folder.name}: {results.line()}")
        if recipe.logging.mlflow:
            MlflowLog(RunFolder(folder, recipe)).finish()
    session.events.close()
    engine_room.shutdown(session.comm)


if __name__ == "__main__":
    run_as_module(evaluate)

"""`gst eval`: score the untouched model on the test split: the `Original` row of every table."""

from __future__ import annotations

import time

from pipeline.cli.launch import launch, run_as_module
from pipeline.cli.options import LocalRank, Overrides, RanksOption, RecipeOption
from pipeline.cli.records import is_finished, results_of, write_result, write_run
from pipeline.cli.session import Data, Session
from pipeline.config import Recipe, load_recipe, run_folder
from pipeline.dist import launched_rank
from pipeline.models.exported import read_export
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
    """Score the test split with the model as it is; writes `run.json` and `result.json`. Raises what `Session` does.

    An export's adapters are those of the model, whatever the recipe would train.
    """
    if export := read_export(recipe.model.path):
        kept = {"parts": export.model.parts, "lora": export.model.lora, "adapters": "continue"}
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=kept)})
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
    results = results_of(session, examples)
    if results:
        write_result(session, folder, clock, results)
        print(f"{folder.name}: {results.line()}")
        if recipe.logging.mlflow:
            MlflowLog(RunFolder(folder, recipe)).finish()
    session.events.close()
    engine_room.shutdown(session.comm)


if __name__ == "__main__":
    run_as_module(evaluate)

"""From a run to a folder with its model: at the end of training, or later from a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.atomic import folder_atomic
from pipeline.cli.session import Session
from pipeline.config import Recipe, load_recipe, saved_model
from pipeline.errors import CheckpointError, ModelError
from pipeline.eval.examples import SplitResults
from pipeline.models.card import CardFacts, Which
from pipeline.models.exported import Origin, base_digest, is_saved_whole, origin_of, put_weights, read_export
from pipeline.models.load import load_model

if TYPE_CHECKING:
    from pipeline.engine import SavedWeights


def save_trained_model(
    session: Session, run: Path, step: int, best_step: int | None, results: SplitResults | None
) -> None:
    """Save the weights in the engine, which were tested with `results`, below the run's folder; every rank calls it.

    Args:
        step, best_step: the run's last, and that of its best evaluation.
        results: None on other ranks than the first.
    """
    from pipeline import engine as engine_room

    recipe = session.recipe
    origin = None if is_saved_whole(recipe.model) else origin_of(recipe.model, session.base_digest)
    which = engine_room.which_judged(recipe.train, step, best_step)
    info = json.loads((run / "run.json").read_text()) if results else {}
    facts = _facts(recipe, origin, session.base_digest, which, info, results.to_json() if results else None)
    engine_room.export_engine(session.engine, recipe.model, origin, saved_model(recipe), session.comm, facts)


def export_checkpoint(run: Path, out: Path, checkpoint: str | None, *, merged: bool) -> CardFacts:
    """Write the model of one of a run's checkpoints to the new folder `out`; needs one process and no GPU.

    Args:
        checkpoint: see `find_checkpoint`.
        merged: the whole model, with adapters merged; one without adapters is written whole in any case.

    Raises:
        CheckpointError: no such checkpoint, or not of this run's recipe.
        ModelError: the model that the run began from is not there, or not the one it was.
    """
    from pipeline import engine as engine_room
    from pipeline.models.export_files import write_adapters, write_companions, write_whole_model

    recipe = run_recipe(run)
    saved = engine_room.find_checkpoint(run, recipe, checkpoint)
    digest = saved.identity["base model"]
    is_whole = merged or is_saved_whole(recipe.model)
    origin = None if is_whole else origin_of(recipe.model, digest)
    info = json.loads((run / "run.json").read_text())
    facts = _facts(recipe, origin, digest, saved.which, info, _scores_of(run, recipe, saved.which))
    with folder_atomic(out) as draft:
        if origin is not None:
            write_adapters(draft, origin, dict(saved.tensors()), saved.buffers, facts)
        else:
            write_whole_model(draft, trained_model(recipe, saved))
        write_companions(draft, recipe.model, facts)
    return facts


def trained_model(recipe: Recipe, saved: SavedWeights) -> torch.nn.Module:
    """A run's model with the weights of one of its checkpoints, on the CPU.

    Raises:
        ModelError: the model that the run began from is not there, or not the one it was.
    """
    if (found := base_digest(recipe.model.path)) != saved.identity["base model"]:
        raise ModelError(
            "this is not the model that the run began from",
            where={"path": recipe.model.path},
            got=found,
            expected=saved.identity["base model"],
        )
    model = load_model(recipe.model)
    put_weights(model, {**saved.buffers, **dict(saved.tensors())}, saved.folder)
    return model


def run_recipe(run: Path) -> Recipe:
    """The resolved recipe that a run saved.

    Raises:
        CheckpointError: it is not the folder of a run.
    """
    if not (run / "recipe.yaml").is_file() or not (run / "run.json").is_file():
        runs = sorted(str(each.parent) for each in run.glob("arms/*/run.json"))
        raise CheckpointError(
            "this is not the folder of a run",
            where={"folder": run},
            expected="what `gst train` wrote: OUT/arms/ARM-sSEED, with recipe.yaml and run.json",
            hint=f"there are runs in it: {', '.join(runs)}" if runs else None,
        )
    return load_recipe(run / "recipe.yaml")


def _facts(
    recipe: Recipe,
    origin: Origin | None,
    digest: str,
    which: Which,
    run: dict[str, Any],
    datasets: dict[str, Any] | None,
) -> CardFacts:
    """What the card says; `origin`: None where the model is written whole, `digest`: of what the run began from."""
    path = recipe.model.path
    return CardFacts(
        recipe,
        base=origin.model.path if origin else path,
        base_digest=origin.base_digest if origin else digest,
        began_from=path if origin and read_export(path) else None,
        which=which,
        is_whole=origin is None,
        run=run,
        datasets=datasets,
    )


def _scores_of(run: Path, recipe: Recipe, which: Which) -> dict[str, Any] | None:
    """Test scores in `result.json`, if it is of these weights."""
    file = run / "result.json"
    if not file.is_file():
        return None
    result: dict[str, Any] = json.loads(file.read_text())
    keep_best = recipe.train.keep_best
    of_best = keep_best is not None and keep_best.use_for_test
    is_tested = which.best is not None if of_best else which.best is None and which.step == result["step"]
    return result["datasets"] if is_tested else None

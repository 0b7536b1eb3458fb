"""`gst probe`: warm up on a mixture of everything, then take every dataset's gradients at that one checkpoint."""

from __future__ import annotations

from pathlib import Path

from pipeline.affinity.versions import load_probe, save_probe
from pipeline.cli.gradients import take_gradients
from pipeline.cli.launch import launch, run_as_module
from pipeline.cli.options import LocalRank, Overrides, RanksOption, RecipeOption
from pipeline.cli.session import Data, Session, digest_of
from pipeline.config import Recipe, load_recipe, recipe_digest
from pipeline.dist import launched_rank
from pipeline.errors import ConfigError
from pipeline.models.load import base_digest


def probe(
    recipe: RecipeOption, overrides: Overrides = None, ranks: RanksOption = None, local_rank: LocalRank = 0
) -> None:
    """Write <out>/probe: gradient sketches per dataset and what they cost."""
    if ranks is not None:
        launch("pipeline.cli.probe", ["-c", recipe, *(overrides or [])], ranks)
    run_probe(probe_recipe(load_recipe(recipe, overrides or ())))


def probe_recipe(recipe: Recipe) -> Recipe:
    """The warm-up run of a probe: every dataset equally often, whatever the recipe's own schedule is."""
    schedule = recipe.schedule.model_copy(
        update={"regime": "mix_all", "weights": recipe.schedule.weights.model_copy(update={"kind": "uniform"})}
    )
    return recipe.model_copy(update={"arm": "probe", "schedule": schedule})


def run_probe(recipe: Recipe) -> None:
    """Probe and save below `<out>/probe`, unless that very probe is there; raises what `Session` does."""
    if recipe.sketch.gradient == "adam":
        raise ConfigError(
            "a probe cannot take Adam-preconditioned gradients: it reduces nothing, and the second moments are "
            "partitioned over ranks",
            where={"key": "sketch.gradient"},
            hint="probe with sketch.gradient=raw; training with sketch.mode=partition sketches preconditioned ones",
        )
    folder = Path(recipe.out) / "probe"
    data = Data(recipe)
    source = digest_of([recipe_digest(recipe), base_digest(recipe.model.path), data.index.digests])
    if is_done(folder, source):
        if launched_rank() == 0:
            print(f"{folder}: already probed")
        return
    from pipeline import engine as engine_room

    session = Session(recipe, data, folder)
    stats = take_gradients(session, source)
    if session.comm.rank == 0:
        save_probe(folder, stats)
        print(f"{folder}: {stats.cost['backwards']} backwards, {stats.cost['seconds']:.1f} s with warm-up")
    engine_room.shutdown(session.comm)


def is_done(folder: Path, source: str) -> bool:
    """Whether `folder` holds a probe of this recipe, base model and data."""
    if not (folder / "probe.json").exists():
        return False
    return load_probe(folder).source == source


if __name__ == "__main__":
    run_as_module(probe)

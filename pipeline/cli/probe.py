"""`gst probe`: warm up on a mixture of everything, then take every dataset's gradients at that one checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.affinity.estimator import GradientStats
from pipeline.affinity.store import load_probe, save_probe
from pipeline.cli.launch import launch, run_as_module
from pipeline.cli.options import LocalRank, Overrides, RanksOption, RecipeOption
from pipeline.cli.session import Data, Session, digest_of
from pipeline.config import Recipe, load_recipe, recipe_digest
from pipeline.dist import launched_rank
from pipeline.errors import ConfigError
from pipeline.models.load import base_digest
from pipeline.runlog import RunConsole
from pipeline.schedule import StageController, build_plan
from pipeline.sketch.accumulator import SketchWindow
from pipeline.types import Clock, MicroBatch


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


def warm_up(session: Session) -> Clock:
    """Train a few steps on everything, so that the probe's checkpoint is no longer the untouched base.

    With LoRA this is needed: B starts at zero, and then A has no gradient.
    """
    from pipeline import engine as engine_room

    recipe, data, comm = session.recipe, session.data, session.comm
    controller = StageController(build_plan(recipe, data.sizes, data.domains), recipe)
    trainer = engine_room.Trainer(
        recipe=recipe,
        engine=session.engine,
        loader=session.train_loader(controller.weights, recipe.train.seed),
        controller=controller,
        evaluate=lambda: {},
        datasets=data.datasets,
        comm=comm,
        events=session.events,
        console=RunConsole(comm.rank, recipe.probe.warmup_steps, "probe warm-up"),
    )
    trainer.warm_up(recipe.probe.warmup_steps)
    return trainer.clock


def take_gradients(session: Session, source: str) -> GradientStats:
    """Warm up, then probe; the cost counts both."""
    from pipeline import engine as engine_room

    recipe = session.recipe
    started = time.monotonic()
    warmed = warm_up(session)
    size = recipe.probe.micro_batch
    batches = session.fixed_batches("train", recipe.probe.batches_per_dataset * size, size)
    sketcher = session.sketcher()
    window = SketchWindow(session.data.datasets, sketcher.groups, sketcher.spec, keep_batches=True)
    by_tokens = recipe.sketch.weight == "tokens"
    world_size, rank = session.comm.world_size, session.comm.rank
    position = rank

    @contextmanager
    def record(batch: MicroBatch, tokens: int) -> Iterator[None]:
        nonlocal position
        with sketcher.micro_batch(1 / engine_room.loss_scale(session.engine)):
            yield
        if batch.counted:
            window.add(batch.dataset, sketcher.take(), tokens, weight=tokens if by_tokens else 1, key=position)
        position += world_size

    backwards = engine_room.probe_gradients(session.engine, batches, record)
    sketcher.close()
    whole = window.all_reduce(session.comm)
    cost = {
        "samples": warmed.samples + int(whole.count.sum()) * size,
        "tokens": warmed.tokens + int(whole.tokens.sum()),
        "steps": warmed.step,
        "backwards": backwards * world_size,
        "seconds": time.monotonic() - started,
    }
    return GradientStats(**whole.export(), cost=cost, source=source)


if __name__ == "__main__":
    run_as_module(probe)

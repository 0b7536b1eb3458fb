"""The probe's work on every rank: warm up on everything, then sketch every dataset's gradients at that checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.affinity.estimator import GradientStats
from pipeline.cli.session import Session
from pipeline.runlog import RunConsole
from pipeline.schedule import StageController, build_plan
from pipeline.sketch.accumulator import SketchWindow
from pipeline.types import Clock, MicroBatch


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

"""The recorder of gradient sketches that a recipe asks for."""

from __future__ import annotations

from typing import Any

from pipeline.affinity.conflict import conflict_summary
from pipeline.affinity.estimator import GradientStats
from pipeline.cli.session import Session
from pipeline.sketch.recorder import PartitionRecorder, SketchRecorder


def build_recorder(session: Session) -> SketchRecorder | PartitionRecorder | None:
    """None when sketching is off; must be built after the engine, on every rank alike."""
    from pipeline import engine as engine_room

    sketch, train = session.recipe.sketch, session.recipe.train
    if not sketch.enabled:
        return None
    common: dict[str, Any] = {
        "window_steps": sketch.window_steps,
        "weigh_by_tokens": sketch.weight == "tokens",
        "half_life": sketch.half_life if sketch.form == "ema" else None,
        "second_every": sketch.second_seed_every,
    }
    datasets, comm = session.data.datasets, session.comm
    if sketch.mode == "hook":
        return SketchRecorder(
            session.sketcher(),
            datasets,
            comm,
            summarise=lambda export: conflict_summary(GradientStats(**export)),
            second=session.sketcher(second_seed=True) if sketch.second_seed_every else None,
            **common,
        )
    micro_batches = train.global_batch // train.micro_batch
    return PartitionRecorder(
        session.partition_sketcher(),
        datasets,
        comm,
        partitions=lambda: engine_room.gradient_partitions(session.engine, adam=sketch.gradient == "adam"),
        summarise=lambda export: conflict_summary(GradientStats(**export), micro_batches_per_count=micro_batches),
        second=session.partition_sketcher(second_seed=True) if sketch.second_seed_every else None,
        **common,
    )

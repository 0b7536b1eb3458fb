"""The recorder of gradient sketches that a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.affinity.conflict import conflict_summary
from pipeline.affinity.estimator import GradientStats
from pipeline.cli.session import Session
from pipeline.sketch.recorder import PartitionRecorder, SketchRecorder


def build_recorder(
    session: Session, publish: Callable[[GradientStats, int], None] | None = None
) -> SketchRecorder | PartitionRecorder | None:
    """None when sketching is off; must be built after the engine, on every rank alike.

    Args:
        publish: gets each closed window's statistics over all ranks and its last step; on rank 0 only.
    """
    from pipeline import engine as engine_room

    sketch, train = session.recipe.sketch, session.recipe.train
    if not sketch.enabled:
        return None
    is_hook = sketch.mode == "hook"

    def summarise(export: dict[str, Any], step: int) -> dict[str, Any]:
        stats = GradientStats(**export)
        if publish is not None:
            publish(stats, step)
        micro_batches = 1 if is_hook else train.global_batch // train.micro_batch
        return conflict_summary(stats, micro_batches_per_count=micro_batches)

    common: dict[str, Any] = {
        "window_steps": sketch.window_steps,
        "weigh_by_tokens": sketch.weight == "tokens",
        "half_life": sketch.half_life if sketch.form == "ema" else None,
        "second_every": sketch.second_seed_every,
        "summarise": summarise,
    }
    datasets, comm = session.data.datasets, session.comm
    if is_hook:
        second = session.sketcher(second_seed=True) if sketch.second_seed_every else None
        return SketchRecorder(session.sketcher(), datasets, comm, second=second, **common)
    return PartitionRecorder(
        session.partition_sketcher(),
        datasets,
        comm,
        partitions=lambda: engine_room.gradient_partitions(session.engine, adam=sketch.gradient == "adam"),
        second=session.partition_sketcher(second_seed=True) if sketch.second_seed_every else None,
        **common,
    )

"""What all controllers share of their state: losses by dataset, and the check that a checkpoint is of the same plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.errors import CheckpointError
from pipeline.schedule.stages import StagePlan
from pipeline.types import DatasetScore

CurvesByDataset = dict[str, list[float | None]]  # dataset -> one loss per evaluation; None where it was not finite


def record_losses(losses: CurvesByDataset, scores: Mapping[str, DatasetScore], datasets: Iterable[str]) -> None:
    """Append one evaluation's losses of `datasets`; JSON has no NaN, so what is not finite becomes None."""
    for name in datasets:
        loss = scores[name].loss
        losses.setdefault(name, []).append(loss if math.isfinite(loss) else None)


def mean_loss(losses: CurvesByDataset) -> float | None:
    """Mean over the datasets of the last evaluation's losses that are finite."""
    last = [values[-1] for values in losses.values() if values and values[-1] is not None]
    return math.fsum(value for value in last if value is not None) / len(last) if last else None


def require_same_plan(state: Mapping[str, Any], mine: Mapping[str, Any], plan: StagePlan) -> None:
    """Raise CheckpointError unless `state` was saved under this version and plan."""
    for key in ("version", *plan.identity()):
        if state.get(key) != mine[key]:
            raise CheckpointError(
                "the checkpoint was made with another stage plan",
                where={"key": f"controller.{key}"},
                got=state.get(key),
                expected=mine[key],
                hint="pin schedule.version to the checkpoint's affinity version, or start a new run",
            )

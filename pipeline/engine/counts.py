"""How many weights a model has and how many of them learn."""

from __future__ import annotations

from typing import Any

from pipeline.models.load import trainable_parameters


def trainable_count(engine: Any) -> tuple[int, int]:
    """(trainable, all) parameters, also when they are partitioned."""

    def size(parameter: Any) -> int:
        return int(getattr(parameter, "ds_numel", parameter.numel()))

    learning = trainable_parameters(engine.module).values()
    return sum(size(p) for p in learning), sum(size(p) for p in engine.module.parameters())

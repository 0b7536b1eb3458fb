"""The score of one dataset, as results and evaluation events hold it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_TEACHER_FORCED = frozenset({"loss", "token_accuracy", "exact_match"})


@dataclass(frozen=True)
class Score:
    """Score of one dataset: `loss` in nats per answer token and the two rates in 0..1 are teacher-forced.

    `metrics` are of generated answers, of `generated` examples; a dataset has those that fit its tasks.
    """

    loss: float
    token_accuracy: float
    exact_match: float
    tokens: int
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    generated: int = 0

    def value(self, name: str) -> float | None:
        """`loss`, `token_accuracy`, `exact_match` or a metric of generated answers; None when there is none."""
        return float(getattr(self, name)) if name in _TEACHER_FORCED else self.metrics.get(name)


def number_or_nan(value: Any) -> float:
    """JSON null stands for a number that is not finite."""
    return math.nan if value is None else float(value)


def read_scores(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Score]:
    """Scores by dataset from a result or an evaluation event; older ones lack metrics of answers."""
    return {
        name: Score(
            loss=number_or_nan(row.get("loss")),
            token_accuracy=number_or_nan(row.get("token_accuracy")),
            exact_match=number_or_nan(row.get("exact_match")),
            tokens=int(row.get("tokens") or 0),
            examples=int(row.get("examples") or 0),
            metrics={metric: number_or_nan(value) for metric, value in (row.get("metrics") or {}).items()},
            generated=int(row.get("generated") or 0),
        )
        for name, row in rows.items()
    }

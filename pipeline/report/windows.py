"""Windows of gradient sketches, as a run's event log has them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ConflictWindow:
    """What the gradient sketches of one window of training said, at its last step.

    `negative_share` (of pairs with a negative inner product) and `mean_cosine` are NaN where the window held too
    little; `cosine` has the pairs whose cosine is known; `noise_scale` is in micro-batches; `dropped` counts
    micro-batches with non-finite gradients; `sketch_error` is the measured error of a cosine, NaN without second seed.
    """

    step: int
    samples: int
    negative_share: float
    mean_cosine: float
    cosine: dict[tuple[str, str], float]
    noise_scale: dict[str, float]
    dropped: int
    sketch_error: float


def read_windows(events: Iterable[dict[str, Any]]) -> tuple[ConflictWindow, ...]:
    """The `sketch` events among effective events; `step` events say how many samples had been seen."""
    windows, samples = [], 0
    for event in events:
        if event["event"] == "step":
            samples = int(event["samples"])
        if event["event"] != "sketch":
            continue
        pairs = (event.get("cosine") or {}).items()
        windows.append(
            ConflictWindow(
                step=int(event["step"]),
                samples=samples,
                negative_share=_number(event.get("negative_share")),
                mean_cosine=_number(event.get("mean_cosine")),
                cosine={(a, b): float(value) for a, row in pairs for b, value in row.items()},
                noise_scale={name: float(value) for name, value in (event.get("noise_scale") or {}).items()},
                dropped=int(event.get("dropped") or 0),
                sketch_error=_number((event.get("second_seed") or {}).get("cosine_error")),
            )
        )
    return tuple(windows)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)

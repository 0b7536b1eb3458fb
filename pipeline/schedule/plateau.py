"""When is a loss curve flat? Detectors that look at the last evaluations and say so with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from pipeline.config.schedule import PlateauConfig


@dataclass(frozen=True)
class Verdict:
    """`flat` and why; `numbers` go into the log and the report."""

    flat: bool
    numbers: dict[str, Any]


def detect_plateau(losses: Sequence[float], config: PlateauConfig) -> Verdict:
    """Judge the current stage's validation losses (oldest first; one value per evaluation)."""
    if config.detector == "patience":
        return _patience(losses, config)
    return _slope(losses, config)


def _patience(losses: Sequence[float], config: PlateauConfig) -> Verdict:
    """Flat when the best of the last `window` values is no better than what came before by `min_gain`, relative."""
    numbers: dict[str, Any] = {"detector": "patience", "window": config.window, "evaluations": len(losses)}
    if len(losses) <= config.window:
        return Verdict(False, numbers)
    before, recent = min(losses[: -config.window]), min(losses[-config.window :])
    gain = (before - recent) / abs(before)
    return Verdict(gain < config.min_gain, {**numbers, "gain": gain, "min_gain": config.min_gain})


def _slope(losses: Sequence[float], config: PlateauConfig) -> Verdict:
    """Flat when the upper confidence bound of the relative fall per evaluation lies below `min_gain`.

    Ordinary least squares over the last `window` values; the bound is one-sided, Student t with window - 2 degrees of
    freedom (window = 2 leaves none, and the plain slope is used).
    """
    numbers: dict[str, Any] = {"detector": "slope", "window": config.window, "evaluations": len(losses)}
    if len(losses) < config.window:
        return Verdict(False, numbers)
    recent = np.asarray(losses[-config.window :], dtype=float)
    if not np.isfinite(recent).all():
        return Verdict(False, {**numbers, "non_finite": True})
    times = np.arange(config.window) - (config.window - 1) / 2
    slope = float(times @ recent / (times @ times))
    gain = -slope / abs(recent[-1])
    bound = gain
    if config.window > 2:
        residual = recent - recent.mean() - slope * times
        degrees = config.window - 2
        error = float(np.sqrt((residual @ residual) / degrees / (times @ times)))
        bound = gain + float(stats.t.ppf(config.confidence, degrees)) * error / abs(recent[-1])
    return Verdict(
        bound < config.min_gain,
        {**numbers, "gain_per_evaluation": gain, "upper_bound": bound, "min_gain": config.min_gain},
    )

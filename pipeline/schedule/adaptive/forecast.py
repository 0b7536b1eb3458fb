"""What a pool gains now: the relative fall of its loss per token, with an upper confidence bound.

The clock is not tokens but tokens times the learning-rate factor they were trained at, as in the multi-power law of
loss curves (Luo et al. 2025), whose first term this is: tokens of a warm-up or a decay count less. Its second term, the
extra fall while the rate decays, is left out: stages are compared at a constant rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from pipeline.config.schedule import AdvanceConfig
from pipeline.schedule.plateau import relative_slope
from pipeline.schedule.shares import Array

EXPONENTS = np.geomspace(0.05, 4.0, 40)
NEARBY = np.geomspace(1 / 1.3, 1.3, 101)  # finer, as multiples of the best of these


@dataclass(frozen=True)
class Gain:
    """Relative fall per unit of the clock now, and its one-sided upper bound."""

    now: float
    upper: float
    numbers: dict[str, Any]


def pool_gain(clock: Array, losses: Array, config: AdvanceConfig) -> Gain | None:
    """Read off a stage's mean relative loss [T] at the clock's readings [T]; None with too few evaluations.

    Evaluations between which the clock stood still cannot be told apart and give None.
    """
    usable = np.isfinite(losses)
    clock, losses = clock[usable], losses[usable]
    if len(losses) < config.window or not (np.diff(clock) > 0).all():
        return None
    if config.forecast == "slope":
        now, upper = relative_slope(losses[-config.window :], config.confidence, clock[-config.window :])
        return Gain(now, upper, {"forecast": "slope"})
    return _power_law(clock, losses, config.confidence)


def _power_law(clock: Array, losses: Array, confidence: float) -> Gain:
    """From L = c + a u^-b, u = 1 + (clock since the stage began) / (its first interval), with a and c not negative.

    For each exponent b of a grid, a and c are least squares. The upper bound is the largest over all exponents that
    the data do not refute (profile likelihood: residuals above the best by less than t^2 variances), plus t standard
    errors of a.
    """
    unit = clock[1] - clock[0]
    u = 1 + (clock - clock[0]) / unit
    coarse = [_fit(u**-b, losses)[2] for b in EXPONENTS]
    exponents = np.concatenate([EXPONENTS, EXPONENTS[int(np.argmin(coarse))] * NEARBY])
    c, a, residual = np.array([_fit(u**-b, losses) for b in exponents]).T
    variance = residual.min() / max(len(losses) - 3, 1)
    t = float(stats.t.ppf(confidence, max(len(losses) - 3, 1)))
    fall = exponents * u[-1] ** (-exponents - 1) / unit / (c + a * u[-1] ** -exponents)
    spread = np.array([np.square(u**-b - np.mean(u**-b)).sum() for b in exponents])
    upper = (a + t * np.sqrt(variance / spread)) * fall
    best = int(residual.argmin())
    allowed = residual <= residual[best] + t**2 * variance
    numbers = {"forecast": "power_law", "exponent": float(exponents[best]), "limit": float(c[best])}
    return Gain(float(a[best] * fall[best]), float(upper[allowed].max()), numbers)


def _fit(basis: Array, losses: Array) -> tuple[float, float, float]:
    """Least squares of losses on c + a * basis with both not negative: c, a, sum of squared residuals."""
    centred = basis - basis.mean()
    a = max(float(centred @ losses / (centred @ centred)), 0.0)
    c = float(losses.mean() - a * basis.mean())
    if c < 0:
        c, a = 0.0, float(basis @ losses / (basis @ basis))
    return c, a, float(np.square(losses - c - a * basis).sum())

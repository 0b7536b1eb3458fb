"""When is a pool's loss flat? Detectors that look at the datasets' last evaluations and say so with their numbers.

A falling curve called flat (a false advance) costs what was still to be learnt, a flat one that is not seen (a delay)
costs the evaluations until it is. `gst bench plateau` measures both on curves whose truth is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from pipeline.config.schedule import PlateauConfig

Losses = Mapping[str, Sequence[float | None]]  # dataset -> one value per evaluation, oldest first
Matrix = npt.NDArray[np.float64]

SIDE = 3 / 8  # of the paired test's window: its first and last part


@dataclass(frozen=True)
class Verdict:
    """`flat` and why; `numbers` go into the log and the report."""

    flat: bool
    numbers: dict[str, Any]


def detect_plateau(losses: Losses, config: PlateauConfig) -> Verdict:
    """Judge a pool's validation losses since its stage began.

    A value that is not finite (None or NaN) in the window means: not flat. A dataset that was never scored is left out.
    """
    names, matrix = loss_matrix(losses)
    numbers: dict[str, Any] = {"detector": config.detector, "datasets": len(names), "evaluations": matrix.shape[1]}
    if config.detector == "none" or not names:
        return Verdict(False, numbers)
    verdict = _DETECTORS[config.detector](matrix, config)
    return Verdict(verdict.flat, {**numbers, **verdict.numbers})


def loss_matrix(losses: Losses) -> tuple[list[str], Matrix]:
    """Datasets that were ever scored, by name, and their losses [D, T]; NaN where one is missing."""
    rows = {name: np.array([np.nan if v is None else v for v in losses[name]], dtype=float) for name in sorted(losses)}
    names = [name for name, row in rows.items() if np.isfinite(row).any()]
    length = max((len(row) for row in rows.values()), default=0)
    return names, np.stack([rows[name] for name in names]) if names else np.zeros((0, length))


def relative_slope(values: Matrix, confidence: float, times: Matrix | None = None) -> tuple[float, float]:
    """Relative fall per unit of time of a curve [T], by least squares, and its one-sided upper confidence bound.

    Relative to the last value. The bound is Student's with T - 2 degrees of freedom; T = 2 leaves none, and the fall
    itself is returned.

    Args:
        times: [T]; None: one evaluation each.
    """
    x = np.arange(len(values), dtype=float) if times is None else times
    x = x - x.mean()
    slope = float(x @ values / (x @ x))
    scale = abs(float(values[-1])) or 1.0
    degrees = len(values) - 2
    if degrees < 1:
        return -slope / scale, -slope / scale
    residual = values - values.mean() - slope * x
    error = float(np.sqrt((residual @ residual) / degrees / (x @ x)))
    return -slope / scale, (-slope + float(stats.t.ppf(confidence, degrees)) * error) / scale


def _patience(matrix: Matrix, config: PlateauConfig) -> Verdict:
    """Flat when the best mean loss of the last `window` is no better than what came before by `min_gain`, relative."""
    losses, window = matrix.mean(0), config.window
    if len(losses) <= window:
        return Verdict(False, {"window": window})
    before, recent = losses[:-window].min(), losses[-window:].min()
    gain = float((before - recent) / abs(before))
    numbers = {"window": window, "gain": gain if np.isfinite(gain) else None, "min_gain": config.min_gain}
    return Verdict(gain < config.min_gain, numbers)


def _slope(matrix: Matrix, config: PlateauConfig) -> Verdict:
    """Flat when the upper bound of the mean loss's relative fall per evaluation lies below `min_gain`.

    Ordinary least squares over the last `window` values; see `relative_slope`.
    """
    losses = matrix.mean(0)
    numbers: dict[str, Any] = {"window": config.window}
    if len(losses) < config.window:
        return Verdict(False, numbers)
    recent = losses[-config.window :]
    if not np.isfinite(recent).all():
        return Verdict(False, {**numbers, "non_finite": True})
    gain, bound = relative_slope(recent, config.confidence)
    numbers |= {"gain_per_evaluation": gain, "upper_bound": bound, "min_gain": config.min_gain}
    return Verdict(bound < config.min_gain, numbers)


def _paired(matrix: Matrix, config: PlateauConfig) -> Verdict:
    """Flat when the datasets fall by less than `min_gain` per evaluation from the window's first to its last 3/8.

    The window is the later half of the stage, at least `window` and at most `max_window` evaluations, n of them, and
    its parts have k = 3n/8 each. Dataset i's relative fall per evaluation is g_i = (e_i - l_i) / (e_i (n - k)), with
    e_i and l_i its mean in the first and the last part. The upper bound of the mean of g is the larger of two, which
    see different noise, so that neither few datasets nor a wobble that all of them share can pass for evidence:

    - over datasets, Student's t with D - 1 degrees of freedom (the paired test; needs D >= 2);
    - over evaluations: the mean relative curve's scatter around a straight line, n - 2 degrees of freedom.
    """
    seen = matrix.shape[1]
    window = min(max(config.window, seen // 2), config.max_window)
    numbers: dict[str, Any] = {"window": window}
    if seen < window:
        return Verdict(False, numbers)
    recent = matrix[:, -window:]
    if not np.isfinite(recent).all() or not recent.all():
        return Verdict(False, {**numbers, "non_finite": True})
    part = max(1, int(SIDE * window))
    first = recent[:, :part].mean(1)
    gains = (1 - recent[:, -part:].mean(1) / first) / (window - part)
    gain = float(gains.mean())
    bounds = [gain + _scatter_over_time(recent / first[:, None], part, config.confidence)]
    if len(gains) > 1:
        error = float(gains.std(ddof=1)) / np.sqrt(len(gains))
        bounds.append(gain + float(stats.t.ppf(config.confidence, len(gains) - 1)) * error)
    bound = float(max(bounds))
    numbers |= {"gain_per_evaluation": gain, "upper_bound": bound, "min_gain": config.min_gain}
    return Verdict(bound < config.min_gain, numbers)


def _scatter_over_time(relative: Matrix, part: int, confidence: float) -> float:
    """What noise of single evaluations adds to the bound of the fall between two parts of `part` evaluations each."""
    curve = relative.mean(0)
    window = len(curve)
    x = np.arange(window) - (window - 1) / 2
    residual = curve - curve.mean() - (x @ curve) / (x @ x) * x
    error = np.sqrt(residual @ residual / (window - 2) * 2 / part)
    return float(stats.t.ppf(confidence, window - 2) * error) / (window - part)


_DETECTORS: dict[str, Callable[[Matrix, PlateauConfig], Verdict]] = {
    "patience": _patience,
    "slope": _slope,
    "paired": _paired,
}

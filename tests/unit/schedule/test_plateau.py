"""Plateau detectors on curves whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config.schedule import PlateauConfig
from pipeline.schedule.plateau import detect_plateau

SLOPE = PlateauConfig(detector="slope", window=4, min_gain=0.01, confidence=0.8)
PATIENCE = PlateauConfig(detector="patience", window=3, min_gain=0.01)


@pytest.mark.parametrize("config", [SLOPE, PATIENCE])
def test_a_falling_curve_is_not_flat_and_a_level_one_is(config: PlateauConfig) -> None:
    falling = [2.0 * 0.9**i for i in range(8)]
    assert not detect_plateau(falling, config).flat
    assert detect_plateau([*falling, *[falling[-1]] * 4], config).flat


@pytest.mark.parametrize("config", [SLOPE, PATIENCE])
def test_too_few_evaluations_are_never_flat(config: PlateauConfig) -> None:
    assert not detect_plateau([1.0] * (config.window - 1), config).flat


def test_the_slope_bound_is_the_least_squares_one() -> None:
    losses = [1.0, 0.97, 0.96, 0.91]
    x = np.arange(4)
    slope, intercept = np.polyfit(x, losses, 1)
    residual = np.asarray(losses) - (slope * x + intercept)
    error = np.sqrt(residual @ residual / 2 / ((x - 1.5) @ (x - 1.5)))
    numbers = detect_plateau(losses, SLOPE).numbers
    assert numbers["gain_per_evaluation"] == pytest.approx(-slope / 0.91)
    student_80_df2 = 1.06066  # quantile 0.8 of Student's t with 2 degrees of freedom: closed form 0.6/sqrt(2*0.8*0.2)
    assert numbers["upper_bound"] == pytest.approx((-slope + student_80_df2 * error) / 0.91, rel=1e-4)


def test_noise_around_a_falling_line_needs_evidence_before_it_is_flat() -> None:
    noisy = [1.00, 1.06, 0.94, 1.01]  # falls by about 0.01 an evaluation, but the noise could hide much more
    assert not detect_plateau(noisy, SLOPE).flat
    assert detect_plateau(noisy, SLOPE.model_copy(update={"confidence": 0.51, "min_gain": 0.05})).flat


def test_a_non_finite_loss_is_no_plateau() -> None:
    verdict = detect_plateau([1.0, 1.0, float("nan"), 1.0], SLOPE)
    assert not verdict.flat and verdict.numbers["non_finite"]

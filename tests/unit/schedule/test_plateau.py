"""Plateau detectors on curves whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from pipeline.config.schedule import PlateauConfig
from pipeline.schedule.plateau import detect_plateau
from tests.bench.plateau import DETECTORS, measure

SLOPE = PlateauConfig(detector="slope", window=4, min_gain=0.01, confidence=0.8)
PATIENCE = PlateauConfig(detector="patience", window=3, min_gain=0.01)
PAIRED = PlateauConfig(detector="paired", window=8, max_window=16, min_gain=0.01, confidence=0.9)


def pool(*curves: Sequence[float | None]) -> dict[str, Sequence[float | None]]:
    return {f"d{i}": curve for i, curve in enumerate(curves)}


@pytest.mark.parametrize("config", [SLOPE, PATIENCE, PAIRED])
def test_a_falling_curve_is_not_flat_and_a_level_one_is(config: PlateauConfig) -> None:
    falling = [2.0 * 0.9**i for i in range(8)]
    assert not detect_plateau(pool(falling), config).flat
    assert detect_plateau(pool([*falling, *[falling[-1]] * 8]), config).flat


@pytest.mark.parametrize("config", [SLOPE, PATIENCE, PAIRED])
def test_too_few_evaluations_are_never_flat(config: PlateauConfig) -> None:
    assert not detect_plateau(pool([1.0] * (config.window - 1)), config).flat


def test_the_slope_bound_is_the_least_squares_one() -> None:
    losses = [1.0, 0.97, 0.96, 0.91]
    x = np.arange(4)
    slope, intercept = np.polyfit(x, losses, 1)
    residual = np.asarray(losses) - (slope * x + intercept)
    error = np.sqrt(residual @ residual / 2 / ((x - 1.5) @ (x - 1.5)))
    numbers = detect_plateau(pool(losses), SLOPE).numbers
    assert numbers["gain_per_evaluation"] == pytest.approx(-slope / 0.91)
    student_80_df2 = 1.06066  # quantile 0.8 of Student's t with 2 degrees of freedom: closed form 0.6/sqrt(2*0.8*0.2)
    assert numbers["upper_bound"] == pytest.approx((-slope + student_80_df2 * error) / 0.91, rel=1e-4)


def test_noise_around_a_falling_line_needs_evidence_before_it_is_flat() -> None:
    noisy = [1.00, 1.06, 0.94, 1.01]  # falls by about 0.01 an evaluation, but the noise could hide much more
    assert not detect_plateau(pool(noisy), SLOPE).flat
    assert detect_plateau(pool(noisy), SLOPE.model_copy(update={"confidence": 0.51, "min_gain": 0.05})).flat


def test_a_non_finite_loss_is_no_plateau() -> None:
    for config in (SLOPE, PAIRED):
        verdict = detect_plateau(pool([1.0] * 6 + [None, 1.0]), config)
        assert not verdict.flat and verdict.numbers["non_finite"]


def test_a_dataset_that_was_never_scored_is_left_out() -> None:
    verdict = detect_plateau(pool([1.0] * 8, [None] * 8), SLOPE)
    assert verdict.flat and verdict.numbers["datasets"] == 1
    assert not detect_plateau(pool([None] * 8), SLOPE).flat


def test_without_a_detector_nothing_is_ever_flat() -> None:
    assert not detect_plateau(pool([1.0] * 50), PlateauConfig(detector="none")).flat


def test_the_paired_bound_is_that_of_the_paired_t_test_over_datasets() -> None:
    """Noise that is alike in both parts and no shared wobble: the datasets' scatter is what counts."""
    rng = np.random.default_rng(0)
    falls = rng.normal(0.02, 0.01, size=6)
    curves = [[2.0 * (1 - fall * t) for t in range(8)] for fall in falls]
    numbers = detect_plateau(pool(*curves), PAIRED).numbers
    firsts, lasts = np.mean(np.array(curves)[:, :3], axis=1), np.mean(np.array(curves)[:, -3:], axis=1)
    gains = (firsts - lasts) / firsts / 5  # the parts' middles are five evaluations apart
    interval = stats.ttest_1samp(gains, 0.0).confidence_interval(0.8)  # two-sided 0.8: one-sided 0.9
    assert numbers["gain_per_evaluation"] == pytest.approx(gains.mean())
    assert numbers["upper_bound"] == pytest.approx(interval.high)


def test_a_wobble_that_all_datasets_share_widens_the_paired_bound() -> None:
    """Alike datasets have no scatter between them; only their scatter over time shows how little is known."""
    wobble = [1.0, 1.2, 0.9, 1.1, 0.8, 1.2, 0.9, 1.1]
    verdict = detect_plateau(pool(wobble, [2 * value for value in wobble]), PAIRED)
    assert not verdict.flat and verdict.numbers["upper_bound"] > verdict.numbers["gain_per_evaluation"] + 0.01


def test_the_paired_window_grows_with_the_stage_up_to_its_bound() -> None:
    windows = [detect_plateau(pool([1.0] * n), PAIRED).numbers["window"] for n in (8, 16, 24, 40, 80)]
    assert windows == [8, 8, 12, 16, 16]


@pytest.mark.parametrize(("datasets", "noise", "shared"), [(5, 0.02, 0.0), (5, 0.01, 0.02), (1, 0.02, 0.0)])
def test_detectors_keep_their_error_rates(datasets: int, noise: float, shared: float) -> None:
    """Rates on 20 curves each; `gst bench plateau` prints more."""
    for name, config in DETECTORS.items():
        power = measure(config, "power law", noise=noise, shared=shared, datasets=datasets, curves=20)
        flat = measure(config, "flat after 20", noise=noise, shared=shared, datasets=datasets, curves=20)
        assert power.false_looks <= 1 - config.confidence + 0.02, name
        assert power.early == 0, name
        assert flat.missed == 0 and flat.delay <= 8, name


def test_the_paired_test_holds_its_rate_per_stage_where_others_do_not() -> None:
    """On a steady fall at 1.5 times min_gain, looked at sixty times."""
    rates = {
        name: measure(config, "steady", noise=0.05, datasets=5, curves=20).false_stages
        for name, config in DETECTORS.items()
    }
    assert rates["paired"] <= 1 - DETECTORS["paired"].confidence + 0.05
    assert rates["patience"] > 0.4 and rates["slope"] > 0.3

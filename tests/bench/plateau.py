"""How often detectors call a falling curve flat, and how late they see a flat one: on curves whose truth is known.

A pool of D datasets falls as L_i r(t), t in evaluations: `power law`, r = 0.3 + 0.7 (1 + t / 2)^-0.8; `flat after 20`,
the same up to t = 20 and level from there on; `steady`, the worst case, by 1.5 times `min_gain` at every evaluation.
Noise is added to every value: one part of each dataset's own, one that all datasets share.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.config.schedule import PlateauConfig
from pipeline.schedule.plateau import detect_plateau
from tests.bench.common import context, figure, run_benchmark

KINDS = ("power law", "flat after 20", "steady")
LENGTH = 60
CASES = ((5, 0.005, 0.0), (5, 0.02, 0.0), (5, 0.05, 0.0), (5, 0.01, 0.02), (1, 0.02, 0.0))  # datasets, own, shared
DETECTORS = {
    "patience": PlateauConfig(detector="patience", window=4, min_gain=0.01),
    "slope": PlateauConfig(detector="slope", window=6, min_gain=0.01, confidence=0.9),
    "paired": PlateauConfig(detector="paired", window=8, max_window=24, min_gain=0.01, confidence=0.9),
}


@dataclass(frozen=True)
class Rates:
    """Of one detector on many curves of one kind.

    Attributes:
        false_looks: share of the looks at a curve that still falls by more than `min_gain` an evaluation, at which it
            was called flat.
        false_stages: share of the curves on which that happened before the fall had become as slow as `min_gain`.
        early: share of the curves called flat while they fell by more than twice `min_gain`.
        delay: median number of evaluations from the moment that the curve is truly flat (or slower than `min_gain`)
            to the first verdict from then on.
        missed: share of the curves on which no such verdict came.
    """

    false_looks: float
    false_stages: float
    early: float
    delay: float
    missed: float


def true_curve(kind: str, min_gain: float) -> npt.NDArray[np.float64]:
    """[T] the pool's relative loss without noise."""
    t = np.arange(LENGTH)
    if kind == "steady":
        return np.asarray((1 - 1.5 * min_gain) ** t, dtype=np.float64)
    t = np.minimum(t, 20 if kind == "flat after 20" else LENGTH)
    return np.asarray(0.3 + 0.7 * (1 + t / 2) ** -0.8, dtype=np.float64)


def measure(
    config: PlateauConfig,
    kind: str,
    *,
    noise: float,
    shared: float = 0.0,
    datasets: int = 5,
    curves: int = 200,
) -> Rates:
    """Follow `curves` noisy copies from the first evaluation on; noise is relative, of one evaluation."""
    truth = true_curve(kind, config.min_gain)
    fall = -np.diff(truth) / truth[:-1]
    fall = np.append(fall, fall[-1])
    falling = fall > config.min_gain
    end = int(np.flatnonzero(falling).max()) + 1
    rng = np.random.default_rng(7)
    looks: list[bool] = []
    false_stages, early, delays = 0, 0, []
    for _ in range(curves):
        level = rng.uniform(1, 10, size=(datasets, 1))
        wobble = noise * rng.standard_normal((datasets, LENGTH)) + shared * rng.standard_normal(LENGTH)
        losses = level * truth * (1 + wobble)
        flat = [
            detect_plateau({str(i): row[: t + 1].tolist() for i, row in enumerate(losses)}, config).flat
            for t in range(LENGTH)
        ]
        looks += flat[:end]
        false_stages += any(flat[:end])
        early += any(is_flat and gain > 2 * config.min_gain for is_flat, gain in zip(flat, fall, strict=True))
        after = [t for t in range(end, LENGTH) if flat[t]]
        if after:
            delays.append(after[0] - end)
    delay = float(np.median(delays)) if delays else float("nan")
    return Rates(float(np.mean(looks)), false_stages / curves, early / curves, delay, 1 - len(delays) / curves)


def main(argv: Sequence[str]) -> None:
    """Print every case, and each detector's worst one for curves that fall as losses do."""
    parser = argparse.ArgumentParser("gst bench plateau", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few curves: shows that it runs")
    curves = 5 if parser.parse_args(argv).quick else 60
    context(
        "detector | curve | datasets | own noise | shared noise | false looks | false stages | early | delay | missed"
    )
    for name, config in DETECTORS.items():
        worst = 0.0
        for kind in KINDS:
            for datasets, noise, shared in CASES:
                rates = measure(config, kind, noise=noise, shared=shared, datasets=datasets, curves=curves)
                numbers = f"{rates.false_looks:.3f} | {rates.false_stages:.2f} | {rates.early:.2f} | {rates.delay:.0f}"
                context(f"{name} | {kind} | {datasets} | {noise} | {shared} | {numbers} | {rates.missed:.2f}")
                worst = max(worst, rates.false_stages if kind == "power law" else 0.0)
        figure(f"false_advance_{name}", worst, "of_stages")


if __name__ == "__main__":
    run_benchmark(main)

"""Errors of cosines between sketched heavy-tailed gradients with outlier columns, at k = 1024, 4096 and 16384.

The figures are the root mean square error over all pairs of three sets and 1,000 seeds, times sqrt(k): 1 is what theory
gives for orthogonal vectors, whatever the vectors are. Beside them, on the same gradients: a plain fold (no rotation),
a CountSketch, dattri's random mask, and TRAK's and dattri's dense matrices where those are affordable, which is for one
set at the smallest k with one seed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

import torch

from pipeline.sketch.projector import add_sketch
from pipeline.sketch.spec import SketchSpec
from tests.bench.common import context, describe_machine, figure, not_measured, run_benchmark
from tests.bench.gradients import Gradients, energy_share, heavy_tailed_gradients, pair_cosines
from tests.bench.peers import DATTRI_MASK, dattri, trak_rademacher

SIZES = (1024, 4096, 16384)
TARGET = 1.1
SETS = 3  # of gradients, drawn apart
SEEDS = 1000  # of the sketch, for each set: errors are rare collisions of few large coordinates
CONTEXT_SEEDS = 10
RESAMPLES = 1000
QUICK_SHRINK = 16

Project = Callable[[Gradients, int, int], torch.Tensor]  # gradients, k, seed -> [count, k]


def main(argv: Sequence[str]) -> None:
    """Print the figures; one that misses its target is reported as missed and is no error."""
    parser = argparse.ArgumentParser("gst bench sketch-accuracy", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="small gradients: shows that it runs")
    parser.add_argument("--seed", type=int, default=14, help="of the gradients")
    options = parser.parse_args(argv)
    describe_machine(("torch", "numba", "traker", "dattri"))
    sets = [heavy_tailed_gradients(options.seed + i, QUICK_SHRINK if options.quick else 1) for i in range(SETS)]
    for number, gradients in enumerate(sets):
        describe(number, gradients)
    for k in SIZES:
        errors = [cosine_errors(rotated_fold, each, k, SEEDS) for each in sets]
        low, high = bootstrap_interval(torch.cat(errors), k)
        by_set = ", ".join(f"{scaled_rms(each, k):.3f}" for each in errors)
        context(f"k={k}: rotated fold, by set: {by_set}; 95 % interval of all {low:.3f} to {high:.3f}")
        for name, project in {"plain fold": plain_fold, "CountSketch": count_sketch}.items():
            context(f"k={k}: {name} {rms_over_sets(project, sets, k):.3f}, {CONTEXT_SEEDS} seeds")
        try:
            context(f"k={k}: dattri {DATTRI_MASK} {rms_over_sets(random_mask, sets, k):.3f}, {CONTEXT_SEEDS} seeds")
        except ImportError as error:
            not_measured(f"k={k}: dattri {DATTRI_MASK}", error)
        name = f"rms_cos_error_times_sqrt_k_at_{k}"
        figure(name, scaled_rms(torch.cat(errors), k), "ratio", target=TARGET, better="lower")
    dense_errors(sets[0], min(SIZES))


def describe(number: int, gradients: Gradients) -> None:
    """How hard a set is, and the figure that theory expects for its cosines, sd = (1 - cosine^2) / sqrt(k)."""
    whole, exact = gradients.whole, gradients.cosines
    context(
        f"set {number}: {len(whole)} gradients of {whole.shape[1]:,} elements; 0.1 % of the coordinates hold "
        f"{energy_share(whole, 0.001):.0%} of the energy; cosines {exact.min():.2f} to {exact.max():.2f}; "
        f"theory {float((1 - exact**2).square().mean().sqrt()):.3f}"
    )


def rotated_fold(gradients: Gradients, k: int, seed: int) -> torch.Tensor:
    """Ours: one sketch for all layers, each with the seed of its name."""
    spec = SketchSpec(k=k, seed=seed)
    out = torch.zeros(gradients.count, k)
    for name, grads in gradients.layers.items():
        for grad, row in zip(grads, out, strict=True):
            add_sketch(grad, spec.seed_of(name), row)
    return out


def plain_fold(gradients: Gradients, k: int, seed: int) -> torch.Tensor:
    """Independent signs, and bucket = index mod k: the rotated fold without its rotation."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1)
    for grads in gradients.layers.values():
        signed = grads * _signs(grads.shape[1], generator)
        total = total + torch.nn.functional.pad(signed, (0, -signed.shape[1] % k)).view(len(grads), -1, k).sum(1)
    return total


def count_sketch(gradients: Gradients, k: int, seed: int) -> torch.Tensor:
    """Independent signs and independent buckets (Charikar, Chen, Farach-Colton 2002)."""
    generator = torch.Generator().manual_seed(seed)
    whole = gradients.whole
    buckets = torch.randint(k, (whole.shape[1],), generator=generator)
    signed = whole * _signs(whole.shape[1], generator)
    return torch.zeros(len(whole), k).index_add_(1, buckets, signed)


def random_mask(gradients: Gradients, k: int, seed: int) -> torch.Tensor:
    """dattri's choice of k coordinates; ImportError where dattri is not installed."""
    whole = gradients.whole
    return dattri(DATTRI_MASK, whole.shape[1], k, seed)(whole)


def dense_errors(gradients: Gradients, k: int) -> None:
    """TRAK and dattri with one matrix each, on which the errors of all pairs depend: rough numbers.

    dattri's `rademacher` is left out: it draws the matrix that TRAK draws.
    """
    whole = gradients.whole
    n = whole.shape[1]
    ways = {"TRAK rademacher": lambda: trak_rademacher(n, k), "dattri normal": lambda: dattri("normal", n, k)}
    for name, build in ways.items():
        try:
            error = pair_cosines(build()(whole)) - gradients.cosines
        except ImportError as missing:
            not_measured(f"k={k}: {name}", missing)
            continue
        context(f"k={k}: {name} {scaled_rms(error, k):.3f}, one seed")


def cosine_errors(project: Project, gradients: Gradients, k: int, n_seeds: int) -> torch.Tensor:
    """[seeds, pairs]: sketched minus exact cosines."""
    sketched = [pair_cosines(project(gradients, k, seed)) for seed in range(n_seeds)]
    return torch.stack(sketched) - gradients.cosines


def rms_over_sets(project: Project, sets: Sequence[Gradients], k: int) -> float:
    return scaled_rms(torch.cat([cosine_errors(project, each, k, CONTEXT_SEEDS) for each in sets]), k)


def scaled_rms(errors: torch.Tensor, k: int) -> float:
    return float(errors.square().mean().sqrt()) * math.sqrt(k)


def bootstrap_interval(errors: torch.Tensor, k: int) -> tuple[float, float]:
    """95 % interval of `scaled_rms`, by resampling seeds: the pairs of one seed are not independent."""
    squares = errors.square().mean(1)
    picks = torch.randint(len(squares), (RESAMPLES, len(squares)), generator=torch.Generator().manual_seed(0))
    values = (squares[picks].mean(1) * k).sqrt()
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high


def _signs(n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(2, (n,), generator=generator, dtype=torch.int8) * 2.0 - 1.0


if __name__ == "__main__":
    run_benchmark(main)

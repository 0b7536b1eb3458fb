"""The gradient sketch on one CPU thread against `tensor.copy_`, TRAK and dattri: 10 million float32, k = 4096.

sketch_over_copy   time of the sketch over `copy_` of the same gradient into memory that is there already
trak_over_sketch   time of TRAK's BasicProjector, k = 512, over the sketch's at k = 4096
dattri_over_sketch the same for the fastest of dattri's CPU projections that read the gradient, k = 4096; `random_mask`,
                   which picks k of its elements and reads no other, has a figure of its own
Peers project the whole gradient once, in full, as soon as their 4 GB of matrix fit; five alternating rounds on a slice
show the spread. With --quick, or where they do not fit, the slice is scaled up and a line says so.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from pipeline.sketch.projector import add_sketch
from tests.bench.common import Ratio, alternate, context, describe_machine, figure, not_measured, ratio, run_benchmark
from tests.bench.peers import DATTRI_DENSE, DATTRI_MASK, Project, block_bytes, dattri, trak_rademacher

N = 10_000_000
K = 4096
TRAK_K = 512
SLICE = 100_000
QUICK_SLICE = 10_000
ROUNDS = 21
CALLS = 10  # of what takes milliseconds, in a timing
SEED_P = 0xDEAD_BEEF_1234_5678
SPARE_BYTES = 2 << 30


def main(argv: Sequence[str]) -> None:
    """Print the figures; one that misses its target is reported as missed and is no error."""
    parser = argparse.ArgumentParser("gst bench sketch-cpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="peers on small slices only: shows that it runs")
    parser.add_argument("--seed", type=int, default=14)
    options = parser.parse_args(argv)
    describe_machine(("torch", "numba", "numpy", "traker", "dattri"))
    torch.set_num_threads(1)
    grad = torch.randn(N, generator=torch.Generator().manual_seed(options.seed))
    against_copy(grad)
    slice_size = QUICK_SLICE if options.quick else SLICE
    against_trak(grad, slice_size, in_full=not options.quick)
    against_dattri(grad, slice_size, in_full=not options.quick)


def against_copy(grad: torch.Tensor) -> None:
    """The memory limit: float32, and bfloat16 for context."""
    halved = grad.bfloat16()
    ways = {
        "sketch": sketching(grad),
        "copy": copying(grad),
        "bf16 sketch": sketching(halved),
        "bf16 copy": copying(halved),
    }
    seconds = {way: [value / CALLS for value in values] for way, values in alternate(ways, ROUNDS).items()}
    context("milliseconds: " + ", ".join(f"{way} {1e3 * statistics.median(s):.2f}" for way, s in seconds.items()))
    against = ratio(seconds["sketch"], seconds["copy"])
    context(f"sketch over copy: {against}")
    context(f"bf16 sketch over bf16 copy: {ratio(seconds['bf16 sketch'], seconds['bf16 copy'])}")
    context(f"bf16 sketch over fp32 copy: {ratio(seconds['bf16 sketch'], seconds['copy'])}")
    figure("sketch_over_copy", against.median, "ratio", target=1.0, better="lower")


def against_trak(grad: torch.Tensor, slice_size: int, *, in_full: bool) -> None:
    """TRAK's projector regenerates its matrix in blocks, at every call."""
    name = "trak_over_sketch"
    try:
        on_slice = trak_rademacher(slice_size, TRAK_K)
    except ImportError as error:
        not_measured(name, f"{error}; pip install -e '.[bench]'")
        return
    rounds = slice_rounds(grad, {"rademacher": on_slice}, slice_size)["rademacher"]
    context(f"TRAK, k={TRAK_K}, on {slice_size:,} elements, scaled to {N:,}, over the sketch: {rounds}")
    value = whole_gradient(grad, lambda: trak_rademacher(N, TRAK_K), "TRAK", rounds, in_full=in_full)
    figure(name, value, "ratio", target=1000)


def against_dattri(grad: torch.Tensor, slice_size: int, *, in_full: bool) -> None:
    """All of dattri's projections for the CPU; the fastest that reads the gradient makes the figure."""
    name = "dattri_over_sketch"
    try:
        on_slice = {kind: dattri(kind, slice_size, K) for kind in DATTRI_DENSE}
    except ImportError as error:
        not_measured(name, f"{error}; pip install -e '.[bench]'")
        return
    rounds = slice_rounds(grad, on_slice, slice_size)
    for kind, each in rounds.items():
        context(f"dattri {kind}, k={K}, on {slice_size:,} elements, scaled to {N:,}, over the sketch: {each}")
    fastest = min(rounds, key=lambda kind: rounds[kind].median)
    what = f"dattri {fastest}"
    value = whole_gradient(grad, lambda: dattri(fastest, N, K), what, rounds[fastest], in_full=in_full)
    context(f"dattri_over_sketch is of `{fastest}`, the fastest that reads the whole gradient")
    figure(name, value, "ratio", target=10)
    mask = dattri(DATTRI_MASK, N, K)
    seconds = alternate({"mask": lambda: mask(grad[None]), "sketch": sketching(grad)}, ROUNDS)
    against = ratio([CALLS * value for value in seconds["mask"]], seconds["sketch"])
    context(f"dattri {DATTRI_MASK} over the sketch: {against}; it reads {K:,} of {N:,} elements and no others,")
    context("which nothing that reads them all can match; for what its cosines are worth see gst bench sketch-accuracy")
    figure("dattri_random_mask_over_sketch", against.median, "ratio")


def slice_rounds(grad: torch.Tensor, projections: dict[str, Project], slice_size: int) -> dict[str, Ratio]:
    """Each peer's time on a slice, scaled to the whole gradient, over the sketch's of the whole, in alternating rounds.

    The scaling favours the peers: on a slice their matrix and the products stay closer to the caches.
    """
    piece = grad[None, :slice_size]
    ways = {kind: functools.partial(project, piece) for kind, project in projections.items()}
    seconds = alternate({**ways, "sketch": sketching(grad)})
    ours = [value / CALLS for value in seconds["sketch"]]
    return {kind: ratio([value * N / slice_size for value in seconds[kind]], ours) for kind in ways}


def whole_gradient(
    grad: torch.Tensor, build: Callable[[], Project], what: str, rounds: Ratio, *, in_full: bool
) -> float:
    """A peer's time for the whole gradient over the sketch's: measured once, or `rounds`' median without `in_full` or
    where its memory is not free. What the peer's constructor does is not counted.
    """
    import psutil

    available_bytes, needed_bytes = psutil.virtual_memory().available, block_bytes(N) + SPARE_BYTES
    if not in_full or available_bytes < needed_bytes:
        why = f"{needed_bytes / 2**30:.1f} GiB are not free" if in_full else "--quick"
        context(f"{what}: the figure below is SCALED UP from the slice, not measured on the whole gradient: {why}")
        return rounds.median
    project = build()
    before_s = median_seconds(sketching(grad))
    started_s = time.perf_counter()
    project(grad[None])
    peer_s = time.perf_counter() - started_s
    ours_s = statistics.mean((before_s, median_seconds(sketching(grad))))
    context(f"{what}, the whole gradient once: {peer_s:.1f} s; the sketch: {1e3 * ours_s:.2f} ms")
    return peer_s / ours_s


def sketching(grad: torch.Tensor) -> Callable[[], None]:
    """Sketch CALLS times."""
    out = torch.zeros(K)

    def run() -> None:
        for _ in range(CALLS):
            add_sketch(grad, SEED_P, out)

    return run


def copying(grad: torch.Tensor) -> Callable[[], None]:
    """Copy CALLS times."""
    target = torch.zeros_like(grad)

    def run() -> None:
        for _ in range(CALLS):
            target.copy_(grad)

    return run


def median_seconds(calls: Callable[[], None]) -> float:
    """Seconds of one of the CALLS calls."""
    return statistics.median(alternate({"only": calls})["only"]) / CALLS


if __name__ == "__main__":
    run_benchmark(main)

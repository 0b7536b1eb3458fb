"""What the sketch adds to a training step: ZeRO-3 on 2 ranks, the mini model, by the real launcher.

One run trains in windows of 20 steps, by turns with and without the sketch (hooks, k = 4096, all 14 datasets, the
window's all-reduce and summary at its last step, which the recipe has every 50), always on the same micro-batches. The
figure is the median over rounds of the ratio of the windows' seconds, for the mini recipe (LoRA and projector). For
context: the same with every step's median over rounds, and in processor time, which other load disturbs less; with
--full the whole model trained.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from tests.bench.common import Ratio, context, describe_machine, figure, ratio, run_benchmark
from tests.bench.mini_data import Mini, add_mini_options, measure_on_ranks, open_mini
from tests.parts import ALL_FULL_OVERRIDE

TARGET = 1.03
ROUNDS = 7
WINDOW_STEPS = 20


def main(argv: Sequence[str]) -> None:
    """Print the figure; a missed target is reported as missed and is no error."""
    parser = argparse.ArgumentParser("gst bench step-overhead", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few short windows: shows that it runs")
    parser.add_argument("--rounds", type=int, help=f"pairs of windows (default: {ROUNDS}; 2 with --quick)")
    parser.add_argument("--full", action="store_true", help="also train the whole model, for context")
    add_mini_options(parser)
    options = parser.parse_args(argv)
    rounds = options.rounds or (2 if options.quick else ROUNDS)
    steps = 5 if options.quick else WINDOW_STEPS
    describe_machine(("torch", "deepspeed", "numba"))
    with open_mini(options) as mini:
        against = measure(mini, rounds, steps)
        figure("step_with_sketch_over_without", against.median, "ratio", target=TARGET, better="lower")
        if options.full:
            measure(mini, rounds, steps, ALL_FULL_OVERRIDE)


def measure(mini: Mini, rounds: int, steps: int, *overrides: str) -> Ratio:
    """Seconds of a window with the sketch over one without, round by round."""
    numbers = measure_on_ranks(
        "tests.bench.step_overhead_worker",
        *("--rounds", rounds, "mini-mix-all", *mini.overrides(), f"sketch.window_steps={steps}", *overrides),
    )
    seconds = numbers["seconds"]
    windows = {way: [sum(window) for window in seconds[way]] for way in seconds}
    against = ratio(windows["with"], windows["without"])
    what = overrides[0] if overrides else "as in the recipe"
    context(f"{what}: {numbers['tensors']} trainable tensors, {numbers['elements']:,} elements")
    means = {way: statistics.median(windows[way]) / steps for way in windows}
    context(f"a step: {1e3 * means['with']:.1f} ms with, {1e3 * means['without']:.1f} ms without; windows of {steps}")
    context(f"with over without: {against}")
    quiet = {way: sum(statistics.median(times) for times in zip(*seconds[way], strict=True)) for way in seconds}
    context(f"with over without, processor time of both ranks: {ratio(*numbers['processor_s'].values())}")
    context(f"with over without, sums of each step's median over rounds: {quiet['with'] / quiet['without']:.3f}")
    return against


if __name__ == "__main__":
    run_benchmark(main)

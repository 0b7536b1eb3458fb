"""Seconds of gradient affinity against measured transfer between fourteen datasets, on the mini model.

Gradients: `gst probe` as the mini recipe has it (warm-up on everything, then every dataset's gradients).
Transfer: what `gst transfer transfer.trainings=pair` does: for each of the 91 pairs, and for each of the 14 datasets
alone, back to the base, a short training, half and half, then the validation loss of both; the base's own losses once.
Seven disjoint pairs, which meet every dataset once, are measured by the project's own code and their mean is taken for
all 105. A probe is measured beside each. Both happen in one launch on 2 ranks, so nobody's start-up is counted, and the
weights are random, which changes no time. The base's warm-up, which is the probe's, is counted for the probe only.
Takes 6 to 11 minutes.

The figure grows with the length of the pair trainings, 100 optimizer steps by default (method.md: "train briefly"); the
lines before it say what follows for other lengths and for the cheaper form `source`, one training for each dataset.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from typing import Any

from tests.bench.common import context, describe_machine, figure, run_benchmark
from tests.bench.mini_data import Mini, add_mini_options, measure_on_ranks, open_mini

TARGET = 50
ROUNDS = 7
PAIR_STEPS = 100


def main(argv: Sequence[str]) -> None:
    """Print the figure; a missed target is reported as missed and is no error."""
    parser = argparse.ArgumentParser("gst bench affinity-cost", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="one pair, few steps: shows that it runs")
    parser.add_argument("--pair-steps", type=int, help=f"optimizer steps of a pair training (default: {PAIR_STEPS})")
    parser.add_argument("--seed", type=int, default=14, help="of the choice of pairs")
    add_mini_options(parser)
    options = parser.parse_args(argv)
    pair_steps = options.pair_steps or (4 if options.quick else PAIR_STEPS)
    describe_machine(("torch", "deepspeed", "numba"))
    with open_mini(options) as mini:
        quick = ["probe.warmup_steps=2", "probe.batches_per_dataset=2"] if options.quick else []
        numbers = measure(mini, 1 if options.quick else ROUNDS, pair_steps, options.seed, quick)
    show(numbers, pair_steps)


def measure(mini: Mini, rounds: int, pair_steps: int, seed: int, overrides: list[str]) -> dict[str, Any]:
    """What `affinity_cost_worker` hands back."""
    return measure_on_ranks(
        "tests.bench.affinity_cost_worker",
        *("--rounds", rounds, "--seed", seed, "mini-mix-all"),
        *("transfer.trainings=pair", f"transfer.steps={pair_steps}", *mini.overrides(), *overrides),
    )


def show(numbers: dict[str, Any], pair_steps: int) -> None:
    """Print the figure and what it is made of."""
    probes, trainings = numbers["probes"], numbers["trainings"]
    n_datasets, base_s = len(numbers["datasets"]), numbers["base_evaluation_s"]
    n_pairs = math.comb(n_datasets, 2) + n_datasets
    probe_s = statistics.median(probe["seconds"] for probe in probes)
    step_s = statistics.fmean(training["train_s"] for training in trainings) / pair_steps
    evaluate_s = statistics.fmean(training["evaluate_s"] for training in trainings)
    fixed_s = evaluate_s + statistics.fmean(training["restore_s"] for training in trainings)
    pair_s = [sum(training.values()) for training in trainings]
    context(
        f"gradients: {probe_s:.1f} s ({_span([probe['seconds'] for probe in probes])} in {len(probes)} rounds); "
        f"{probes[0]['steps']} warm-up steps, {probes[0]['backwards']} backwards of all ranks"
    )
    context(
        f"transfer: {statistics.fmean(pair_s):.1f} s a training ({_span(pair_s)}; {len(pair_s)} of {n_pairs} "
        f"measured), {pair_steps} steps of {1e3 * step_s:.0f} ms, {fixed_s - evaluate_s:.1f} s back to the base and "
        f"{evaluate_s:.1f} s of evaluation"
    )

    def transfer_s(steps: float) -> float:
        return n_pairs * (steps * step_s + fixed_s) + base_s

    rounds = [(n_pairs * pair + base_s) / probe["seconds"] for pair, probe in zip(pair_s, probes, strict=True)]
    context(f"transfer over gradients, each round's pair taken for all: {_span(rounds)}")
    at_target = (TARGET * probe_s - base_s - n_pairs * fixed_s) / (n_pairs * step_s)
    others = ", ".join(f"{transfer_s(steps) / probe_s:.0f} at {steps}" for steps in (50, 200, 360))
    context(f"by the steps of a pair training: {others}; {TARGET} is reached at {at_target:.0f}")
    single_s = n_datasets * (pair_steps * step_s + fixed_s - evaluate_s + base_s) + base_s
    context(f"one training of {pair_steps} steps for each dataset instead, scored on all: {single_s / probe_s:.1f}")
    context(f"SCALED UP from {len(pair_s)} trainings to {n_pairs}, of {pair_steps} steps each:")
    figure("transfer_over_gradient_seconds", transfer_s(pair_steps) / probe_s, "ratio", target=TARGET)


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}"


if __name__ == "__main__":
    run_benchmark(main)

"""Planted groups among 14 datasets with unequal noise: does the affinity estimate find them, and none where none are?

The setting of the figures: squared gradient norms of 2.25, squared distances of 0.5 inside a group and 2.5 between;
in the mean of 16 micro-batches the noise has 1/4 to 4 times the square of the gradient (log-uniform over datasets), so
that noise equals signal for the median dataset. It lies in 128 directions that all datasets share. Under that noise the
raw distance is about as good as in the project's first toy check (pair AUC 0.66 with 16, 0.79 with 32 micro-batches).
Over 100 seeds `groups: auto` answers three groups in 94, with no structure one group in 100.

Beside it: noise in fewer and in more directions, and noise as strong and as narrow as probes of the mini benchmark
have it (noise scales of 0.4 to 13 micro-batches, about 16 effective directions). The sketch's own error is no part.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.affinity.estimator import corrected_gram
from pipeline.affinity.grouping import Grouping, group_datasets
from pipeline.affinity.resample import bootstrap
from tests.bench.common import context, describe_machine, figure, run_benchmark
from tests.planted import Planted, plant

SETTING: dict[str, Any] = {"noise": (3.0, 12.0), "noise_rank": 128}
OTHERS: dict[str, dict[str, Any]] = {
    "noise in 16 directions": {"noise": (3.0, 12.0), "noise_rank": 16},
    "noise in 48 directions": {"noise": (3.0, 12.0), "noise_rank": 48},
    "noise in 512 directions": {"noise": (3.0, 12.0), "noise_rank": 512},
    "noise of the mini benchmark": {"noise": (0.95, 5.4), "noise_rank": 16},
}
BATCHES = (16, 32)
AUC_TARGET, SEEDS, SEEDS_TARGET, AUC_SEEDS = 0.9, 20, 19, 100


def main(argv: Sequence[str]) -> None:
    """Print the figures; one that misses its target is reported as missed and is no error."""
    parser = argparse.ArgumentParser("gst bench affinity-structure", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few seeds and resamples: shows that it runs")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="planted sets on which `groups: auto` is asked")
    parser.add_argument("--seed", type=int, default=0, help="of the first of the planted sets")
    options = parser.parse_args(argv)
    describe_machine(("numpy", "scipy", "scikit-learn"))
    seeds, resamples = (3, 20) if options.quick else (options.seeds, 200)
    auc_seeds = range(options.seed, options.seed + (3 if options.quick else AUC_SEEDS))
    for name, setting in OTHERS.items():
        for batches in BATCHES:
            corrected, raw = pair_aucs(auc_seeds, batches=batches, **setting)
            context(f"{name}, B={batches}: pair AUC corrected {corrected:.3f}, raw {raw:.3f}")
    for batches in reversed(BATCHES):
        corrected, raw = pair_aucs(auc_seeds, batches=batches, **SETTING)
        if batches == BATCHES[0]:
            figure("corrected_pair_auc", corrected, "AUC", target=AUC_TARGET)
            figure("raw_pair_auc", raw, "AUC")
        else:
            context(f"the setting of the figures, B={batches}: pair AUC corrected {corrected:.3f}, raw {raw:.3f}")
    every = range(options.seed, options.seed + seeds)
    alone = [grouped(plant(seed, group=0.0, **SETTING), resamples).k for seed in every]
    figure("no_structure_k1", alone.count(1), f"of_{seeds}", target=SEEDS_TARGET * seeds / SEEDS)
    for batches in reversed(BATCHES):
        found = [grouped(plant(seed, batches=batches, **SETTING), resamples).k for seed in every]
        if batches == BATCHES[0]:
            figure("three_groups_found", found.count(3), f"of_{seeds}", target=SEEDS_TARGET * seeds / SEEDS)
        else:
            context(f"three groups found with B={batches}: {found.count(3)} of {seeds}")


def pair_aucs(seeds: Sequence[int], **setting: Any) -> tuple[float, float]:
    """Mean pair AUC of the corrected and of the raw distance."""
    aucs = []
    for seed in seeds:
        truth = plant(seed, **setting)
        estimate = corrected_gram(truth.stats)
        aucs.append([truth.pair_auc(estimate.distance_sq), truth.pair_auc(estimate.raw_distance_sq)])
    corrected, raw = np.mean(aucs, axis=0).tolist()
    return corrected, raw


def grouped(truth: Planted, resamples: int) -> Grouping:
    """What `groups: auto` answers."""
    return group_datasets(corrected_gram(truth.stats), bootstrap(truth.stats, resamples))


if __name__ == "__main__":
    run_benchmark(main)

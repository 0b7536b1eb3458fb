"""How many more micro-batches a probe needs: datasets differ a hundredfold in how noisy their gradients are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.affinity.estimator import Array, GradientStats, corrected_gram
from pipeline.affinity.resample import MIN_BATCHES, affordable_resamples, bootstrap

PER_NOISE_SCALE = 2  # micro-batches per unit of the noise scale: then noise is at most half of the mean's square
GROWTH = 2  # at most so many times as many micro-batches in one round: what asks for more is itself an estimate
RESAMPLES = 100
MIN_ESTIMATE = 2  # micro-batches without which noise cannot be told from signal


def more_batches_needed(
    stats: GradientStats,
    *,
    most: int,
    width: float | None = None,
    available: Mapping[str, int] | None = None,
    jobs: int = 1,
    seed: int = 0,
) -> dict[str, int]:
    """Dataset -> how many micro-batches to add to those of `stats`, for the datasets that need any; {}: done.

    A dataset needs more while its (effective) number of micro-batches is below twice its noise scale, and, with
    `width`, while the 95 % interval of a squared distance to another dataset is wider than `width` times the median
    distance and its own mean is the noisier one of the two. A noise scale that is infinite (no gradient seen yet) and a
    median distance of zero ask for as much as may be added. No round more than doubles a dataset's micro-batches.

    Args:
        most: micro-batches of a dataset in these statistics, added ones included.
        width: needs kept micro-batches; passed over where there are more datasets than resamples are affordable for.
        available: micro-batches that each dataset can have in all; None: any number.
        jobs: how many jobs probe as many micro-batches each; what is needed is needed of all together.
        seed: of the resamples.
    """
    wanted = {name: MIN_ESTIMATE for name, n in zip(stats.datasets, stats.count, strict=True) if n < MIN_ESTIMATE}
    measured = [name for name in stats.datasets if name not in wanted]
    if measured:
        of_measured = stats.select(measured)
        for rule in _rules(of_measured, width, jobs, seed):
            for name, n in rule.items():
                wanted[name] = max(n, wanted.get(name, 0))
    needed = {}
    for name, count in zip(stats.datasets, stats.count.tolist(), strict=True):
        bound = min(most, count * GROWTH if count >= MIN_ESTIMATE else most)
        if available is not None:
            bound = min(bound, available.get(name, 0))
        more = min(wanted.get(name, 0), bound) - count
        if more > 0:
            needed[name] = more
    return needed


def _rules(stats: GradientStats, width: float | None, jobs: int, seed: int) -> list[dict[str, int]]:
    """Under each rule, the micro-batches that datasets should have in all."""
    found = [_by_noise_scale(stats, jobs)]
    if width is not None:
        found.append(_by_width(stats, width * float(np.sqrt(jobs)), seed))
    return found


def _by_noise_scale(stats: GradientStats, jobs: int) -> dict[str, int]:
    """For an effective number, of all jobs, of twice the noise scale."""
    scale = np.maximum(corrected_gram(stats).noise_scale, 0.0)
    return _in_all(stats, PER_NOISE_SCALE * scale / (jobs * stats.effective_count))


def _by_width(stats: GradientStats, width: float, seed: int) -> dict[str, int]:
    """For intervals of `width`.

    An interval is narrowed by the noisier mean of the two, S_i / B_i, and as the root of its micro-batches at least.
    """
    enough = [name for name, n in zip(stats.datasets, stats.count, strict=True) if n >= MIN_BATCHES]
    wanted = {name: MIN_BATCHES for name in stats.datasets if name not in enough}
    if len(enough) < 2 or stats.batches is None:
        return wanted
    stats = stats.select(enough)
    resamples = affordable_resamples(stats, RESAMPLES)
    if resamples == 0:
        return wanted
    estimate, intervals = corrected_gram(stats), bootstrap(stats, resamples, seed)
    upper = np.triu_indices(len(stats.datasets), 1)
    median = max(float(np.median(estimate.distance_sq[upper])), 0.0)
    allowed = width * median
    found = intervals.distance_high - intervals.distance_low
    excess = np.divide(found, allowed, out=np.where(found > 0, np.inf, 0.0), where=allowed > 0)
    remaining = estimate.noise / stats.effective_count
    excess[remaining[:, None] < remaining] = 0.0  # the other one of the pair is noisier
    np.fill_diagonal(excess, 0.0)
    ratio = excess.max(1)
    return wanted | _in_all(stats, np.where(ratio > 1, ratio**2, 0.0))


def _in_all(stats: GradientStats, factor: Array) -> dict[str, int]:
    """Micro-batches of each dataset times its factor, where that is more than there are; at most `GROWTH` times."""
    wanted = np.ceil(stats.count * np.minimum(factor, GROWTH)).astype(np.int64)
    return {name: int(n) for name, n, count in zip(stats.datasets, wanted, stats.count, strict=True) if n > int(count)}

"""Interval of the difference of two arms when both the seeds and the test examples are samples.

Every run of a grid answers the same test examples, so seeds and examples are *crossed*: a draw resamples seeds (all
datasets of a run together) and, within each dataset, examples, the same ones for both arms and for every seed. This is
the pigeonhole bootstrap (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007), stratified by
dataset. The nested scheme (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8), where
each seed draws examples of its own, would take one hard example in five runs for five hard examples.

The interval is `difference ± t * sqrt(V_seeds + V_examples)`, not the draws' percentiles:

- V_seeds = var(difference of each seed) / S: what resampling S seeds gives, times S / (S - 1).
- V_examples: variance over draws of examples with the seeds held, in each of the D datasets times N / (N - 1).
- t has Satterthwaite's degrees of freedom: V^2 / (V_seeds^2 / (S - 1) + sum over datasets of V_d^2 / (N_d - 1)).

Chosen by the coverage of nominal 95 % intervals in 1,500 simulated comparisons (S = 5, 6 datasets of 40 examples, a
standard error of the coverage of 0.006). Columns: only seed noise; mostly seed noise; balanced; mixed, with much noise
of single answers; only noise of single answers.

    percentile            0.84  0.96  0.96  0.99  1.00
    basic                 0.85  0.95  0.96  0.99  1.00
    BCa                   0.85  0.95  0.95  0.99  1.00
    this one              0.95  0.97  0.96  0.98  0.99
    t over seeds alone    0.95  0.90  0.70  0.90  0.95

Five resampled seeds have too thin tails (0.85), and the draws count the noise of single answers (seed x example) three
times (Owen's theorem), this interval twice: where it errs, it is too wide. Only with very few examples (3 datasets of
15) and nothing but seed noise it fell to 0.93. `tests/numerics/test_statistics.py` repeats what the choice rests on.

Letters: S seeds, N examples of a dataset, B draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.report.stats import MIN_PAIRS

DRAWS = 2_000
# Draws of one dataset are made in blocks of at most this many picks, to bound memory on large test sets.
_PICKS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Part:
    """One dataset's test examples in both arms.

    `differences` [S, N] is the numerator of ours minus that of theirs (answer tokens right, say), `denominators` [N]
    what both are divided by (answer tokens; 1 for a mean over examples). A seed's difference on the dataset is the
    ratio of the sums. `share` is the dataset's weight in the average over datasets; the shares of all parts add to 1.
    """

    differences: np.ndarray
    denominators: np.ndarray
    share: float

    def __post_init__(self) -> None:
        assert self.differences.ndim == 2, self.differences.shape
        assert self.denominators.shape == self.differences.shape[1:], self.denominators.shape


@dataclass(frozen=True)
class TwoLevel:
    """Difference of two arms with its uncertainty from seeds and from test examples.

    `interval` is what to report; `percentile` are the plain percentiles of the two-level draws, for comparison. The
    errors are the standard errors that seeds and test examples add: the larger one says of which more are needed.
    What could not be computed is None and `note` says why.
    """

    difference: float
    interval: tuple[float, float] | None
    percentile: tuple[float, float] | None
    seed_error: float | None
    example_error: float | None
    n_seeds: int
    n_examples: int
    note: str = ""


def two_level(parts: Sequence[Part], *, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> TwoLevel:
    """Interval for the mean over seeds of the weighted mean over datasets of `ours - theirs`.

    With fewer than `MIN_PAIRS` seeds the seeds cannot be resampled honestly: the interval then is over test examples
    only, which answers "would these very runs differ on other examples", and `note` says so.

    Args:
        draws: of both levels; the same `seed` draws the same examples whatever the arms.
    """
    if not parts:
        return TwoLevel(math.nan, None, None, None, None, 0, 0, "no test examples")
    by_seed = seed_differences(parts)
    n_seeds, n_examples = by_seed.size, sum(part.denominators.size for part in parts)
    if not np.isfinite(by_seed).all():
        return TwoLevel(math.nan, None, None, None, None, n_seeds, n_examples, "a value is NaN")
    difference = float(by_seed.mean())
    resampled = [part.share * _resampled(part, draws, np.random.default_rng([seed, i])) for i, part in enumerate(parts)]
    sizes = np.array([part.denominators.size for part in parts])
    of_parts = np.array([rates.mean(axis=1).var(ddof=1) for rates in resampled]) * sizes / np.maximum(sizes - 1, 1)
    enough = n_seeds >= MIN_PAIRS
    of_seeds = float(by_seed.var(ddof=1)) / n_seeds if enough else 0.0
    variance = of_seeds + float(of_parts.sum())
    notes = [] if enough else [f"test examples only: {n_seeds} seed(s) are too few to resample"]
    notes += ["a dataset has a single test example, which cannot be resampled"] if (sizes < 2).any() else []
    if variance <= (1e-12 * max(1.0, abs(difference))) ** 2:
        return TwoLevel(difference, None, None, None, None, n_seeds, n_examples, "the differences do not vary")
    half = _t_quantile(level, of_seeds, n_seeds, of_parts, sizes) * math.sqrt(variance)
    return TwoLevel(
        difference,
        interval=(difference - half, difference + half),
        percentile=_percentile(resampled, level, np.random.default_rng([seed, len(parts)])) if enough else None,
        seed_error=math.sqrt(of_seeds) if enough else None,
        example_error=math.sqrt(float(of_parts.sum())),
        n_seeds=n_seeds,
        n_examples=n_examples,
        note="; ".join(notes),
    )


def seed_differences(parts: Sequence[Part]) -> np.ndarray:
    """[S]: each seed's weighted mean over datasets of the difference, on all examples."""
    everything = [np.ones((1, part.denominators.size)) for part in parts]
    return np.sum([part.share * rates(part, counts)[0] for part, counts in zip(parts, everything, strict=True)], axis=0)


def rates(part: Part, counts: np.ndarray) -> np.ndarray:
    """[B, S]: each seed's difference on the dataset when example e counts `counts[b, e]` times in draw b."""
    return (counts @ part.differences.T) / (counts @ part.denominators)[:, None]


def draw_means(resampled: Sequence[np.ndarray], seed_counts: np.ndarray) -> np.ndarray:
    """[B]: the difference in each draw, from `share * rates` of every dataset and [B, S] counts of its seeds."""
    return np.einsum("bs,bs->b", np.sum(resampled, axis=0), seed_counts) / seed_counts.sum(axis=1)


def example_counts(n: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """[draws, n]: how often each of n examples is among n picks with replacement."""
    picks = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(picks.ravel(), minlength=draws * n).reshape(draws, n).astype(float)


def _resampled(part: Part, draws: int, rng: np.random.Generator) -> np.ndarray:
    n = part.denominators.size
    block = max(1, _PICKS_AT_ONCE // n)
    sizes = [min(block, draws - start) for start in range(0, draws, block)]
    return np.concatenate([rates(part, example_counts(n, size, rng)) for size in sizes])


def _percentile(resampled: Sequence[np.ndarray], level: float, rng: np.random.Generator) -> tuple[float, float]:
    draws, n_seeds = resampled[0].shape
    means = draw_means(resampled, example_counts(n_seeds, draws, rng))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _t_quantile(level: float, of_seeds: float, n_seeds: int, of_parts: np.ndarray, sizes: np.ndarray) -> float:
    """Two-sided t quantile with the degrees of freedom of a sum of variances (Satterthwaite 1946)."""
    squares = float((of_parts**2 / np.maximum(sizes - 1, 1)).sum())
    squares += of_seeds**2 / (n_seeds - 1) if of_seeds else 0.0
    freedom = (of_seeds + float(of_parts.sum())) ** 2 / squares
    return float(stats.t.ppf((1 + level) / 2, freedom))

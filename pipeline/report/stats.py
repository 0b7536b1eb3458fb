"""Statistics over seeds: the seed is the unit, arms are compared on the same seeds (pairs).

With one seed there is no spread, no interval and no test, and the functions say so instead of returning a number. The
t interval stands for small n; a percentile bootstrap over fewer than five pairs is far too narrow and is not given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.errors import ConfigError

# Below this many pairs neither the bootstrap nor the Wilcoxon test can say anything (Wilcoxon's least p is 2 / 2^n).
MIN_PAIRS = 5
BOOTSTRAP_DRAWS = 10_000


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (n - 1) over seeds; `spread` is None with one value."""

    mean: float
    spread: float | None
    n: int


@dataclass(frozen=True)
class Paired:
    """Comparison of two arms on `n` common seeds; `difference` is the mean of ours minus theirs.

    p-values are two-sided. `interval` is the 95 % t interval of the mean difference, `bootstrap` the 95 % percentile
    interval over resampled pairs. `detectable` is the true difference that so many pairs with this spread find with
    80 % power at p < 0.05. What could not be computed is None and `note` says why.
    """

    n: int
    difference: float
    t_p: float | None = None
    wilcoxon_p: float | None = None
    interval: tuple[float, float] | None = None
    bootstrap: tuple[float, float] | None = None
    detectable: float | None = None
    note: str = ""


def summarize(values: Sequence[float]) -> Summary:
    """Mean and spread; NaN in gives NaN out, and no value at all gives n = 0."""
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        return Summary(math.nan, None, 0)
    return Summary(float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else None, int(array.size))


def compare_pairs(ours: Mapping[int, float], theirs: Mapping[int, float], *, seed: int = 0) -> Paired:
    """Compare two arms given their value per training seed; only seeds with two finite values are used.

    Args:
        seed: of the bootstrap's random draws.
    """
    common = [s for s in sorted(ours.keys() & theirs.keys()) if math.isfinite(ours[s]) and math.isfinite(theirs[s])]
    differences = np.array([ours[s] - theirs[s] for s in common], dtype=float)
    n = len(common)
    if n == 0:
        return Paired(0, math.nan, note="no common seed")
    mean = float(differences.mean())
    if n == 1:
        return Paired(1, mean, note="one seed: no interval, no test, nothing can be concluded")
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    # Equal differences up to rounding: a zero standard error would turn any difference into a certainty.
    if error <= 1e-12 * max(1.0, abs(mean)):
        return Paired(n, mean, note="the differences do not vary: no test")
    half = float(stats.t.ppf(0.975, n - 1)) * error
    power = float(stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.8, n - 1)) * error
    enough = n >= MIN_PAIRS
    return Paired(
        n,
        mean,
        t_p=float(stats.ttest_1samp(differences, 0.0).pvalue),
        wilcoxon_p=float(stats.wilcoxon(differences).pvalue) if enough else None,
        interval=(mean - half, mean + half),
        bootstrap=bootstrap_interval(differences, seed=seed) if enough else None,
        detectable=power,
        note="" if enough else f"fewer than {MIN_PAIRS} pairs: description, not evidence",
    )


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, *, level: float = 0.95, draws: int = BOOTSTRAP_DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean over resampled values.

    Raises:
        ConfigError: fewer than `MIN_PAIRS` values, too few to resample.
    """
    array = np.asarray(values, dtype=float)
    if array.size < MIN_PAIRS:
        raise ConfigError("too few values for a bootstrap", got=array.size, expected=f"at least {MIN_PAIRS}")
    picks = np.random.default_rng(seed).integers(array.size, size=(draws, array.size))
    low, high = np.quantile(array[picks].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down adjustment over all tests that have a p-value; the others stay None.

    The i-th smallest of m values becomes max over j <= i of min(1, (m - j + 1) p_j) (Holm 1979).
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None and math.isfinite(p))
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[name] = largest
    return adjusted

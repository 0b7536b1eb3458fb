"""Statistics over seeds: the seed is the unit, arms are compared on the same seeds (pairs).

With one seed there is no spread, no interval and no test, and the functions say so instead of returning a number. The
t interval stands for small n; a percentile bootstrap over fewer than five pairs is far too narrow and is not given.
These intervals are over seeds; `bootstrap.py` has the one that takes test examples as a sample too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, stats

from pipeline.errors import ConfigError

# Below this many pairs neither the bootstrap nor the Wilcoxon test can say anything (Wilcoxon's least p is 2 / 2^n).
MIN_PAIRS = 5
BOOTSTRAP_DRAWS = 10_000
# The sign-flip test looks at all 2^n flips up to this many pairs, and at as many random ones beyond.
EXACT_PAIRS = 16
POWER = 0.8


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
    interval over resampled pairs. `spread` is the standard deviation of the differences, `detectable` the true
    difference that so many pairs with this spread find with 80 % power at p < 0.05. `permutation_p` is the sign-flip
    test's, which assumes no distribution but cannot be below `least_permutation_p`. What could not be computed is None
    and `note` says why.
    """

    n: int
    difference: float
    t_p: float | None = None
    wilcoxon_p: float | None = None
    permutation_p: float | None = None
    spread: float | None = None
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
    spread = error * math.sqrt(n)
    enough = n >= MIN_PAIRS
    return Paired(
        n,
        mean,
        t_p=float(stats.ttest_1samp(differences, 0.0).pvalue),
        wilcoxon_p=float(stats.wilcoxon(differences).pvalue) if enough else None,
        permutation_p=sign_flip_p(differences, seed=seed),
        spread=spread,
        interval=(mean - half, mean + half),
        bootstrap=bootstrap_interval(differences, seed=seed) if enough else None,
        detectable=detectable_difference(n, spread),
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


def sign_flip_p(differences: Sequence[float] | np.ndarray, *, seed: int = 0) -> float:
    """Two-sided p of the sign-flip permutation test of a mean of zero (Fisher 1935).

    If the arms are alike, each pair could as well have had the other sign: p is the share of sign patterns whose mean
    is at least as far from zero. All 2^n patterns up to `EXACT_PAIRS`, random ones beyond.
    """
    values = np.asarray(differences, dtype=float)
    result = stats.permutation_test(
        (values,),
        lambda flipped, axis: flipped.mean(axis=axis),
        permutation_type="samples",
        n_resamples=2 ** min(values.size, EXACT_PAIRS),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def least_permutation_p(n: int) -> float:
    """The smallest p that the sign-flip test of n pairs can have: only the pattern seen and its mirror image count."""
    return min(1.0, 2.0 / 2**n)


def pairs_needed(alpha: float = 0.05, tests: int = 1) -> int:
    """Pairs from which on a sign-flip p can be below alpha, after Holm's correction over so many tests."""
    return math.floor(math.log2(2 * tests / alpha)) + 1


def paired_power(difference: float, spread: float, n: int, *, alpha: float = 0.05) -> float:
    """Probability that the two-sided paired t test finds a true mean `difference` of n pairs.

    The test statistic is noncentral t with n - 1 degrees of freedom and noncentrality difference sqrt(n) / spread
    (Cohen 1988, "Statistical Power Analysis", chapter 2).

    Args:
        spread: true standard deviation of the differences.
    """
    critical = float(stats.t.ppf(1 - alpha / 2, n - 1))
    noncentrality = abs(difference) * math.sqrt(n) / spread
    # The far tail as its mirror image: `nct.cdf` of a negative value is NaN in scipy 1.17 for a large noncentrality.
    return float(stats.nct.sf(critical, n - 1, noncentrality) + stats.nct.sf(critical, n - 1, -noncentrality))


def detectable_difference(n: int, spread: float, *, power: float = POWER, alpha: float = 0.05) -> float:
    """True mean difference that the paired t test of n pairs finds with this power.

    Raises:
        ConfigError: fewer than two pairs, or no spread.
    """
    if n < 2 or not spread > 0:
        raise ConfigError("no power without two pairs that differ", got=f"n={n}, spread={spread}")
    return _detectable_effect(n, power, alpha) * spread


@cache
def _detectable_effect(n: int, power: float, alpha: float) -> float:
    """The detectable difference in units of the spread; every comparison of a report asks for the same few."""
    high = 1.0 / math.sqrt(n)
    while paired_power(high, 1.0, n, alpha=alpha) < power:
        high *= 2
    return float(
        optimize.brentq(lambda effect: paired_power(effect, 1.0, n, alpha=alpha) - power, 0.0, high, xtol=1e-9)
    )


def power_sentence(paired: Paired, *, scale: float = 100.0, unit: str = "points", tests: int = 1) -> str:
    """What so many seeds with this spread can see, and what they saw.

    Args:
        scale: what a difference of 1 is in `unit`.
        tests: size of the family of tests; with more than one the sentence is about p < 0.05 / tests, Holm's first and
            hardest step.
    """
    if paired.spread is None:
        return f"{paired.n} seed(s): what they could see cannot be said ({paired.note})."
    alpha = 0.05 / tests
    least = scale * detectable_difference(paired.n, paired.spread, alpha=alpha)
    level = "p < 0.05" if tests == 1 else f"p < 0.05 / {tests}, for {tests} comparisons"
    return (
        f"{paired.n} seeds with this spread see a true difference of {least:.1f} {unit} with {100 * POWER:.0f} % power "
        f"({level}); the one measured is {scale * paired.difference:+.1f}."
    )


@dataclass(frozen=True)
class NonInferior:
    """One-sided test that ours is at most `margin` worse than theirs.

    `lower` is the one-sided 95 % bound of the difference, so `holds` is `lower > -margin`, which is `p < 0.05`.
    """

    margin: float
    lower: float
    p: float

    @property
    def holds(self) -> bool:
        return self.p < 0.05


def non_inferior(paired: Paired, margin: float = 0.0) -> NonInferior | None:
    """Whether ours is shown to be no more than `margin` worse, by the t test; None where there is no t test.

    With `margin = 0` it asks for a difference above zero. That a two-sided test found no difference shows nothing.

    Raises:
        ConfigError: the margin is negative.
    """
    if not margin >= 0:
        raise ConfigError("a margin is how much worse may be", got=margin, expected="0 or more")
    if paired.spread is None:
        return None
    error = paired.spread / math.sqrt(paired.n)
    p = float(stats.t.sf((paired.difference + margin) / error, paired.n - 1))
    return NonInferior(margin, paired.difference - float(stats.t.ppf(0.95, paired.n - 1)) * error, p)


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down adjustment over one family: all tests given that have a p-value; the others stay None.

    A family is what one table asks of one metric. The probability of any false rejection in it stays at its level,
    however the tests depend on each other.

    The i-th smallest of m values becomes max over j <= i of min(1, (m - j + 1) p_j) (Holm 1979).
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None and math.isfinite(p))
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[name] = largest
    return adjusted

"""How far an affinity estimate can be trusted: bootstrap and split halves over micro-batches.

Both reweight the micro-batches inside each dataset. A weighted estimate needs no pass over all pairs: with weights w_b

    G_ij = (sum_b w_ib s_ib) . (sum_b w_jb s_jb) / (W_i W_j)
    G_ii = (|sum_b w_ib s_ib|^2 - sum_b w_ib^2 |s_ib|^2) / (W_i^2 - sum_b w_ib^2)

with W_i = sum_b w_ib. The diagonal leaves out pairs of a micro-batch with itself *also when it was drawn twice*; the
usual bootstrap would count those and bring the noise bias back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.affinity.estimator import Array, GradientStats, cosine_of, distance_of, gram_of_sums
from pipeline.errors import AffinityError

MIN_BATCHES = 4  # of a dataset: two for each half of a split
MIN_RESAMPLES = 10
MAX_RESAMPLE_BYTES = 500_000_000  # for the resampled Gram matrices: 200 resamples up to 320 datasets, 20 at 1,000
MAX_PRODUCTS = 10**13  # N^2 K multiplications between micro-batches: about two minutes on one core
BLOCK_ROWS = 512


@dataclass(frozen=True)
class Bootstrap:
    """Resampled Gram matrices and the intervals that follow from them.

    Attributes:
        gram: [R, D, D] corrected Gram matrix of each resample (micro-batches drawn with replacement).
        split_gram: [R, 2, D, D] of the two halves of random splits, which share no micro-batch.
        level: of the intervals, 0.95 for instance.
        distance_low, distance_high: [D, D] interval of the corrected squared distance.
        cosine_low, cosine_high: [D, D]; NaN where most resamples have no cosine.
    """

    gram: Array
    split_gram: Array
    level: float
    seed: int
    distance_low: Array
    distance_high: Array
    cosine_low: Array
    cosine_high: Array


def bootstrap(stats: GradientStats, n: int = 200, seed: int = 0, level: float = 0.95) -> Bootstrap:
    """`n` resamples of the micro-batches inside each dataset.

    The intervals are percentiles. They are on the wide side where noise dominates (a product of two resampled means
    varies up to three times as much as the estimate itself; Owen 2007), never on the narrow side.

    Inner products are taken in the precision of the kept micro-batches: in float32 a resampled inner product is off by
    about 1e-7 of the product of the two norms, which is nothing beside how much resamples differ.

    Raises:
        AffinityError: micro-batches were not kept, or a dataset has fewer than four (two for each half).
    """
    obstacle = obstacle_to_resampling(stats)
    if obstacle is not None:
        raise obstacle
    assert stats.batches is not None
    rng = np.random.default_rng(seed)
    counts = [len(each) for each in stats.batches]
    own = 1.0 if stats.batch_weights is None else np.concatenate(stats.batch_weights)
    draws = [own * _drawn(counts, rng) for _ in range(n)]
    splits = [own * weights for _ in range(n) for weights in _split(counts, rng)]
    grams = weighted_grams(stats.batches, np.stack(draws + splits))
    return with_intervals(grams[:n], grams[n:].reshape(n, 2, len(counts), len(counts)), level, seed)


def affordable_resamples(stats: GradientStats, wanted: int) -> int:
    """How many of the `wanted` resamples stay inside the bounds on memory and work; 0 when not even `MIN_RESAMPLES` do.

    Each resample holds three [D, D] matrices; before all of them, every micro-batch meets every other in K products.
    """
    assert stats.batches is not None
    d, n_batches, k = len(stats.datasets), int(stats.count.sum()), stats.sum.shape[1]
    if n_batches**2 * k > MAX_PRODUCTS:
        return 0
    most = min(wanted, MAX_RESAMPLE_BYTES // (3 * 8 * d**2))
    return most if most >= min(wanted, MIN_RESAMPLES) else 0


def with_intervals(gram: Array, split_gram: Array, level: float, seed: int) -> Bootstrap:
    """Resampled Gram matrices with the percentiles of the distances and cosines that follow from them."""
    tail = 50 * (1 - level)
    cosine = cosine_of(gram)
    mostly_missing = np.isnan(cosine).mean(0) > 0.5
    cosine_low, cosine_high = _percentiles(cosine, [tail, 100 - tail])
    distance_low, distance_high = _percentiles(distance_of(gram), [tail, 100 - tail])
    return Bootstrap(
        gram=gram,
        split_gram=split_gram,
        level=level,
        seed=seed,
        distance_low=distance_low,
        distance_high=distance_high,
        cosine_low=np.where(mostly_missing, np.nan, cosine_low),
        cosine_high=np.where(mostly_missing, np.nan, cosine_high),
    )


def weighted_grams(batches: Sequence[Array], weights: Array) -> Array:
    """[R, D, D] corrected Gram matrix under each of R weightings of the micro-batches.

    With P_bc = s_b . s_c the matrix is W P W' for each weighting, W [D, N] holding each dataset's weights in its own
    row. All weightings meet a dataset's rows of P at once, in one product of matrices; P itself [N, N] is never whole.

    Args:
        batches: per dataset [B_i, K].
        weights: [R, N], micro-batches dataset after dataset; at least two of each dataset not 0.
    """
    counts = [len(rows) for rows in batches]
    starts = np.cumsum([0, *counts])
    rows = np.concatenate(batches)
    by_dataset = [weights[:, start:stop] for start, stop in pairwise(starts)]
    inner = np.empty((len(weights), len(counts), len(counts)))
    self_pairs = np.empty((len(weights), len(counts)))
    for block in _blocks(counts):
        first = starts[block[0]]
        products = (rows[first : starts[block[-1] + 1]] @ rows[first:].T).astype(np.float64)
        for i in block:
            own = products[starts[i] - first : starts[i + 1] - first, starts[i] - first :]
            met = by_dataset[i] @ own
            met *= weights[:, starts[i] :]
            inner[:, i, i:] = np.add.reduceat(met, starts[i:-1] - starts[i], axis=1)
            inner[:, i:, i] = inner[:, i, i:]
            self_pairs[:, i] = by_dataset[i] ** 2 @ np.diagonal(own)
    weight = np.stack([w.sum(1) for w in by_dataset], axis=1)
    weight_sq = np.stack([np.square(w).sum(1) for w in by_dataset], axis=1)
    every = np.arange(len(counts))
    diagonal = (inner[:, every, every] - self_pairs) / (weight**2 - weight_sq)
    inner /= weight[:, :, None] * weight[:, None, :]
    inner[:, every, every] = diagonal
    return inner


def _blocks(counts: list[int]) -> Iterator[list[int]]:
    """Datasets in a row with about `BLOCK_ROWS` micro-batches together, at least one dataset each."""
    block: list[int] = []
    rows = 0
    for i, count in enumerate(counts):
        if block and rows + count > BLOCK_ROWS:
            yield block
            block, rows = [], 0
        block.append(i)
        rows += count
    if block:
        yield block


def obstacle_to_resampling(stats: GradientStats) -> AffinityError | None:
    """Why these statistics cannot be resampled; None when they can."""
    if stats.batches is None:
        return AffinityError(
            "there is nothing to resample: the micro-batches' own sketches were not kept",
            hint="probe with kept micro-batches; the sums of a training window give an estimate without intervals",
        )
    few = [f"{name}: {n}" for name, n in zip(stats.datasets, stats.count, strict=True) if n < MIN_BATCHES]
    if few:
        return AffinityError(
            "too few micro-batches to resample",
            got=", ".join(few),
            expected=f"at least {MIN_BATCHES} of every dataset, better 16",
            hint="raise probe.batches_per_dataset",
        )
    return None


def _percentiles(values: Array, percents: Sequence[float]) -> list[Array]:
    """Percentiles over the first axis, of the values that are not NaN (`np.nanpercentile` takes minutes for that)."""
    ordered = np.sort(values, axis=0)  # NaN last
    last = np.maximum(np.count_nonzero(~np.isnan(ordered), axis=0) - 1, 0)
    found = []
    for percent in percents:
        position = last * (percent / 100)
        low = position.astype(np.int64)
        share = position - low
        below = np.take_along_axis(ordered, low[None], 0)[0]
        above = np.take_along_axis(ordered, np.minimum(low + 1, last)[None], 0)[0]
        found.append(below + share * (above - below))
    return found


def _drawn(counts: list[int], rng: np.random.Generator) -> Array:
    """[N] how often each micro-batch was drawn, with at least two different ones in every dataset."""
    drawn: list[npt.NDArray[np.int64]] = []
    for b in counts:
        times = rng.multinomial(b, np.full(b, 1 / b))
        while np.count_nonzero(times) < 2:
            times = rng.multinomial(b, np.full(b, 1 / b))
        drawn.append(times)
    return np.concatenate(drawn).astype(np.float64)


def _split(counts: list[int], rng: np.random.Generator) -> tuple[Array, Array]:
    """Two [N] weightings of 0 and 1: a random half of every dataset's micro-batches, and the others."""
    first = np.concatenate([rng.permutation(b) < b // 2 for b in counts]).astype(np.float64)
    return first, 1.0 - first


def split_half_reliability(stats: GradientStats) -> float:
    """How well the pairwise distances of one half of the micro-batches predict the other half's, stepped up to all.

    Pearson correlation r over pairs, then 2r / (1 + r) (Spearman-Brown). NaN without halves, with fewer than three
    pairs, or when a half holds fewer than two micro-batches of some dataset.
    """
    if stats.half_count is None or stats.half_sum is None or stats.half_sum_sq is None:
        return float("nan")
    if stats.half_count.min() < 2 or len(stats.datasets) < 3:
        return float("nan")
    upper = np.triu_indices(len(stats.datasets), 1)
    count = stats.half_count.astype(np.float64)
    weight = count if stats.half_weight is None else stats.half_weight
    weight_sq = count if stats.half_weight_sq is None else stats.half_weight_sq
    distances = []
    for half in (0, 1):
        total, total_sq = stats.half_sum[half], stats.half_sum_sq[half]
        gram = gram_of_sums(total, total_sq, weight[half], weight_sq[half], fast=True)
        distances.append(distance_of(gram)[upper])
    r = float(np.corrcoef(distances[0], distances[1])[0, 1])
    return 2 * r / (1 + r) if r > -1 else float("nan")

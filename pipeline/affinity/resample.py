"""How far an affinity estimate can be trusted: bootstrap and split halves over micro-batches.

Both reweight the micro-batches inside each dataset. A weighted estimate needs no pass over all pairs: with weights w_b

    G_ij = (sum_b w_ib s_ib) . (sum_b w_jb s_jb) / (W_i W_j)
    G_ii = (|sum_b w_ib s_ib|^2 - sum_b w_ib^2 |s_ib|^2) / (W_i^2 - sum_b w_ib^2)

with W_i = sum_b w_ib. The diagonal leaves out pairs of a micro-batch with itself *also when it was drawn twice*; the
usual bootstrap would count those and bring the noise bias back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.affinity.estimator import Array, GradientStats, cosine_of, distance_of
from pipeline.errors import AffinityError


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

    Raises:
        AffinityError: micro-batches were not kept, or a dataset has fewer than four (two for each half).
    """
    rows = _kept(stats)
    rng = np.random.default_rng(seed)
    coordinates = _coordinates(np.concatenate(rows).astype(np.float64))
    counts = [len(each) for each in rows]
    own = 1.0 if stats.batch_weights is None else np.concatenate(stats.batch_weights)
    draws = [own * _drawn(counts, rng) for _ in range(n)]
    splits = [own * weights for _ in range(n) for weights in _split(counts, rng)]
    gram = np.stack(list(weighted_grams(coordinates, counts, draws)))
    split_gram = np.stack(list(weighted_grams(coordinates, counts, splits)))
    tail = 50 * (1 - level)
    cosine = cosine_of(gram)
    mostly_missing = np.isnan(cosine).mean(0) > 0.5
    cosine_low, cosine_high = np.nanpercentile(np.where(mostly_missing, 0.0, cosine), [tail, 100 - tail], axis=0)
    distance_low, distance_high = np.percentile(distance_of(gram), [tail, 100 - tail], axis=0)
    return Bootstrap(
        gram=gram,
        split_gram=split_gram.reshape(n, 2, len(counts), len(counts)),
        level=level,
        seed=seed,
        distance_low=distance_low,
        distance_high=distance_high,
        cosine_low=np.where(mostly_missing, np.nan, cosine_low),
        cosine_high=np.where(mostly_missing, np.nan, cosine_high),
    )


def weighted_grams(rows: Array, counts: list[int], weights: list[Array]) -> Iterator[Array]:
    """The corrected Gram matrix [D, D] under each weighting of the micro-batches, one at a time.

    Args:
        rows: [N, K] micro-batch sketches of all datasets, dataset after dataset; any coordinates with their inner
            products will do.
        counts: [D] micro-batches of each dataset.
        weights: each [N], at least two of each dataset not 0.
    """
    starts = np.cumsum([0, *counts[:-1]])
    sq = np.square(rows).sum(1)
    for w in weights:
        total = np.add.reduceat(rows * w[:, None], starts)
        weight, weight_sq = np.add.reduceat(w, starts), np.add.reduceat(w**2, starts)
        inner = total @ total.T
        gram = inner / np.outer(weight, weight)
        self_pairs = np.add.reduceat(w**2 * sq, starts)
        np.fill_diagonal(gram, (np.diag(inner) - self_pairs) / (weight**2 - weight_sq))
        yield gram


def _kept(stats: GradientStats) -> list[Array]:
    if stats.batches is None:
        raise AffinityError(
            "there is nothing to resample: the micro-batches' own sketches were not kept",
            hint="probe with kept micro-batches; the sums of a training window give an estimate without intervals",
        )
    few = [f"{name}: {n}" for name, n in zip(stats.datasets, stats.count, strict=True) if n < 4]
    if few:
        raise AffinityError(
            "too few micro-batches to resample",
            got=", ".join(few),
            expected="at least 4 of every dataset, better 16",
            hint="raise probe.batches_per_dataset",
        )
    return stats.batches


def _coordinates(rows: Array) -> Array:
    """The same vectors in fewer coordinates: N micro-batches span at most N dimensions of the K."""
    if len(rows) >= rows.shape[1]:
        return rows
    triangle: Array = np.linalg.qr(rows.T, mode="r")  # type: ignore[assignment]
    return np.ascontiguousarray(triangle.T)


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

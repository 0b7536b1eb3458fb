"""Synthetic gradients with a known structure: what tests and benchmarks of the affinity estimator judge it by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from pipeline.affinity.estimator import Array, GradientStats
from pipeline.affinity.partitions import Groups


@dataclass(frozen=True)
class Planted:
    """Sketches drawn from known mean gradients [D, K] and noise [D] (summed variance of one micro-batch)."""

    stats: GradientStats
    labels: Array
    means: Array
    noise: Array

    @property
    def gram(self) -> Array:
        return self.means @ self.means.T

    def pair_auc(self, distance: Array) -> float:
        """How often a pair of different groups is further apart than a pair of one group: 0.5 by chance, 1 at best."""
        upper = np.triu_indices(len(self.labels), 1)
        return float(roc_auc_score((self.labels[:, None] != self.labels)[upper], distance[upper]))

    def agreement(self, groups: Groups) -> float:
        """Adjusted Rand index between the planted groups and `groups`."""
        label = {name: number for number, group in enumerate(groups) for name in group}
        return float(adjusted_rand_score(self.labels, [label[name] for name in self.stats.datasets]))


def plant(
    seed: int,
    *,
    batches: int = 16,
    k: int = 512,
    sizes: tuple[int, ...] = (5, 5, 4),
    group: float = 1.0,
    own: float = 0.5,
    noise: tuple[float, float] = (2.0, 8.0),
    noise_rank: int = 48,
) -> Planted:
    """Mean = common + group + own direction; noise lies in one subspace and differs between datasets.

    With the norms 1, `group` and `own`, squared gradient norms are 1 + group^2 + own^2, and squared distances 2 own^2
    inside a group, 2 own^2 + 2 group^2 between groups.

    Args:
        noise: range of the root of one micro-batch's summed variance; log-uniform over datasets.
        noise_rank: dimensions of the noise's subspace. The fewer, the less does the noise left in a mean agree with its
            expectation, which is what the correction takes away.
    """
    rng = np.random.default_rng(seed)
    subspace = rng.standard_normal((noise_rank, k)) / np.sqrt(k * noise_rank)

    def direction() -> Array:
        return rng.standard_normal(k) / np.sqrt(k)

    common, labels = direction(), np.repeat(np.arange(len(sizes)), sizes)
    group_directions = [group * direction() for _ in sizes]
    means = np.stack([common + group_directions[label] + own * direction() for label in labels])
    scale = np.exp(rng.uniform(math.log(noise[0]), math.log(noise[1]), size=len(labels)))
    rows = {
        f"set{i:02d}": means[i] + scale[i] * rng.standard_normal((batches, noise_rank)) @ subspace
        for i in range(len(labels))
    }
    total_variance = scale**2 * np.square(subspace).sum()
    return Planted(GradientStats.from_batches(rows, spec={"k": k}), labels, means, total_variance)

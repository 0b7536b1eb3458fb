"""Synthetic gradients with a known structure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from pipeline.affinity.estimator import Array, GradientStats


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
    """Mean = common + group + own direction; noise lies in one subspace and differs between datasets."""
    rng = np.random.default_rng(seed)
    subspace = rng.standard_normal((noise_rank, k)) / np.sqrt(k * noise_rank)

    def direction() -> Array:
        return rng.standard_normal(k) / np.sqrt(k)

    common, labels = direction(), np.repeat(np.arange(len(sizes)), sizes)
    group_directions = [group * direction() for _ in sizes]
    means = np.stack([common + group_directions[label] + own * direction() for label in labels])
    scale = np.exp(rng.uniform(*np.log(noise), size=len(labels)))
    rows = {
        f"set{i:02d}": means[i] + scale[i] * rng.standard_normal((batches, noise_rank)) @ subspace
        for i in range(len(labels))
    }
    total_variance = scale**2 * np.square(subspace).sum()
    return Planted(GradientStats.from_batches(rows, spec={"k": k}), labels, means, total_variance)


@pytest.fixture
def planted() -> Callable[..., Planted]:
    return plant

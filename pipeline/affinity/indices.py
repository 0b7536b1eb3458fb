"""Indices of partitions, by scikit-learn: seconds to import, which no training that groups nothing must pay."""

from __future__ import annotations

from typing import Any

from pipeline.affinity.estimator import Array


def adjusted_rand_index(one: Any, other: Any) -> float:
    """How far two partitions agree, beyond chance: 1 equal, 0 as by chance (Hubert & Arabie 1985).

    Args:
        one, other: [D] the group of each.
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(one, other))


def mean_silhouette(dissimilarity: Array, labels: Any) -> float:
    """Mean silhouette of groups (Rousseeuw 1987) from dissimilarities [D, D]; labels [D], of 2 to D - 1 groups."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(dissimilarity, labels, metric="precomputed"))

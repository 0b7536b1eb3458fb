"""Spectral clustering of a similarity matrix: one decomposition gives the groups for every K, and the eigengaps.

What scikit-learn's `spectral_clustering(assign_labels="cluster_qr")` computes, which tests compare with. Grouping
clusters hundreds of resamples for several K each; one dense decomposition for all K is 4 to 25 times faster, and needs
no start vector that results could depend on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh, qr, svd

from pipeline.affinity.estimator import Array

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spectrum:
    """The lowest part of the spectrum of the symmetric normalised Laplacian (von Luxburg 2007).

    Attributes:
        values: [M] ascending eigenvalues, 0 to 2.
        embedding: [D, M] eigenvectors divided by the square roots of the degrees, which makes them constant on the
            parts of a graph that falls apart.
    """

    values: Array
    embedding: Array

    @property
    def size(self) -> int:
        return len(self.embedding)

    @property
    def eigengap(self) -> dict[int, float]:
        """K -> lambda_(K+1) - lambda_K: large after the true number of groups."""
        return {k: float(gap) for k, gap in enumerate(np.diff(self.values), start=1)}

    def labels(self, k: int) -> Labels:
        """[D] group numbers; fewer than `k` different ones where datasets cannot be told apart."""
        if k == 1:
            return np.zeros(self.size, dtype=np.int64)
        if k == self.size:
            return np.arange(k)
        return cluster_qr(self.embedding[:, :k])


def spectrum_of(similarity: Array, most: int) -> Spectrum:
    """The `most` lowest eigenvalues and their vectors (at most D).

    Args:
        similarity: [D, D] symmetric, not negative; the diagonal does not count.
    """
    d = len(similarity)
    between = similarity.copy()
    np.fill_diagonal(between, 0.0)
    degree = between.sum(1)
    alone = degree == 0
    root = np.where(alone, 1.0, np.sqrt(degree))
    laplacian = between / -np.outer(root, root)
    np.fill_diagonal(laplacian, ~alone)
    values, vectors = eigh(laplacian, subset_by_index=[0, min(most, d) - 1], overwrite_a=True, check_finite=False)
    return Spectrum(values, vectors / root[:, None])


def cluster_qr(embedding: Array) -> Labels:
    """[D] group numbers by column-pivoted QR of a [D, K] spectral embedding (Damle, Minden and Ying 2019).

    The pivots are K datasets that lie as far apart as possible; after the rotation that brings these closest to the
    axes, each dataset belongs to the axis on which it is largest.
    """
    k = embedding.shape[1]
    pivots = qr(embedding.T, mode="r", pivoting=True, check_finite=False)[1][:k]
    left, _, right = svd(embedding[pivots].T, check_finite=False)
    return np.asarray(np.abs(embedding @ (left @ right)).argmax(1), dtype=np.int64)

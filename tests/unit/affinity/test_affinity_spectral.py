"""Spectral clustering against scikit-learn's, and on graphs without an answer."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import spectral_clustering
from sklearn.metrics import adjusted_rand_score

from pipeline.affinity.spectral import spectrum_of


def similarity(seed: int, d: int, groups: int, spread: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((d, 8)) + spread * rng.standard_normal((groups, 8))[np.arange(d) % groups]
    distance = np.square(points[:, None] - points).sum(-1)
    return np.exp(-distance / np.median(distance))


@pytest.mark.parametrize(("d", "groups", "spread"), [(14, 3, 4.0), (40, 4, 2.0), (60, 1, 0.0), (120, 5, 1.0)])
def test_labels_equal_those_of_scikit_learn(d: int, groups: int, spread: float) -> None:
    for seed in range(3):
        matrix = similarity(seed, d, groups, spread)
        spectrum = spectrum_of(matrix, 6)
        for k in (2, 3, 4, 5):
            theirs = spectral_clustering(matrix, n_clusters=k, assign_labels="cluster_qr", random_state=0)
            assert adjusted_rand_score(theirs, spectrum.labels(k)) == 1.0


def test_eigenvalues_are_those_of_the_normalised_laplacian() -> None:
    matrix = similarity(0, 12, 3, 4.0)
    between = matrix - np.diag(np.diag(matrix))
    root = 1 / np.sqrt(between.sum(1))
    values = np.linalg.eigvalsh(np.eye(12) - root[:, None] * between * root)
    spectrum = spectrum_of(matrix, 6)
    assert np.allclose(spectrum.values, values[:6])
    assert spectrum.eigengap == pytest.approx({k: values[k] - values[k - 1] for k in range(1, 6)})
    assert max((2, 3, 4, 5), key=spectrum.eigengap.__getitem__) == 3


def test_parts_that_are_not_connected_are_the_groups() -> None:
    parts = np.repeat(np.arange(3), [4, 3, 2])
    matrix = (parts[:, None] == parts).astype(float)
    spectrum = spectrum_of(matrix, 6)
    assert np.allclose(spectrum.values[:3], 0) and spectrum.values[3] > 0.5
    assert adjusted_rand_score(parts, spectrum.labels(3)) == 1.0


def test_datasets_that_are_like_no_other_are_no_error() -> None:
    spectrum = spectrum_of(np.eye(5), 6)
    assert np.isfinite(spectrum.embedding).all()
    assert len(spectrum.labels(2)) == 5
    assert spectrum_of(np.ones((1, 1)), 6).labels(1).tolist() == [0]
    assert spectrum_of(np.ones((2, 2)), 6).labels(2).tolist() == [0, 1]
    assert len(np.unique(spectrum_of(np.ones((9, 9)), 6).labels(3))) <= 3

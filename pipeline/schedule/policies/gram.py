"""Weights by agreement of gradients: R&B's balance step (arXiv 2505.00358), on the corrected Gram matrix."""

from __future__ import annotations

import numpy as np

from pipeline.schedule.shares import Array


def gram_shares(shares: Array, gram: Array, sharpness: float) -> Array:
    """p <- softmax(sharpness * G p / |G p|).

    (G p)_i is, to first order, how far a step along dataset i's gradient lowers the loss of the mixture p. Dividing by
    the norm makes the result independent of the gradients' scale. Where G p is 0 nothing is known, and p stays.

    Args:
        shares: [D] p, summing to 1.
        gram: [D, D] inner products of the datasets' mean gradients.
    """
    gain = gram @ shares
    norm = float(np.linalg.norm(gain))
    if norm == 0:
        return shares
    scores = sharpness * gain / norm
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()

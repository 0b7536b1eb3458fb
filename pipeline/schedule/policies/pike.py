"""Weights by gradient norm against noise: PiKE (arXiv 2502.06244), for mixtures whose gradients rarely conflict."""

from __future__ import annotations

import numpy as np

from pipeline.config.schedule import PikeConfig
from pipeline.schedule.shares import Array


def pike_shares(shares: Array, norm_sq: Array, noise: Array, micro_batches: float, config: PikeConfig) -> Array:
    """w_k <- w_k exp(zeta1 * G_kk - zeta2 / (2 b) * S_k), then divided by the sum.

    A large gradient pulls a dataset's weight up, noise in it pulls it down. A squared norm that is estimated below
    zero counts as zero. `config.relative` divides G and S by the mean of G_kk first.

    Args:
        shares: [D] w, summing to 1.
        norm_sq: [D] G_kk, unbiased squared norm of the mean gradient.
        noise: [D] S_k, summed variance of one micro-batch gradient.
        micro_batches: b, of one optimizer step.
    """
    signal, scatter = np.clip(norm_sq, 0, None), np.clip(noise, 0, None)
    if config.relative:
        scale = float(signal.mean())
        if scale == 0:
            return shares
        signal, scatter = signal / scale, scatter / scale
    exponent = config.zeta1 * signal - config.zeta2 / (2 * micro_batches) * scatter
    # Only ratios count; without the shift a large exponent would overflow.
    grown = shares * np.exp(exponent - exponent.max())
    return grown / grown.sum() if grown.sum() > 0 else shares

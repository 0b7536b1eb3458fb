"""Sketching tensors on an accelerator, through the torch reference in chunks.

This is correct on any device but several passes over the gradient slow; the one-pass Triton kernel comes with the GPU
work and will replace the body of `add_sketch`, not its meaning.
"""

from __future__ import annotations

import torch

from pipeline.sketch.reference import sketch

_CHUNK = 1 << 22  # elements; bounds the temporary indices to some hundred MB


def add_sketch(grad: torch.Tensor, seed_p: int, out: torch.Tensor, offset: int = 0, scale: float = 1.0) -> None:
    """Add `scale` times the rotated fold of `grad` to `out` ([K] float32 on the same device), in place."""
    flat = grad.detach().reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        piece = sketch(flat[start : start + _CHUNK], seed_p, out.numel(), offset + start)
        out.add_(piece.to(out.dtype), alpha=scale)

"""Other projects' projections of gradients, called as their users call them. They come with the extra `bench`."""

from __future__ import annotations

from collections.abc import Callable

import torch

Project = Callable[[torch.Tensor], torch.Tensor]  # gradients [B, n] -> [B, k]

# TRAK's and dattri's BasicProjector draw this many columns of their matrix at a time, which is what they hold.
BLOCK = 100
# What dattri computes without a GPU; it refuses `sjlt` and `grass` there, and `identity` is no projection.
DATTRI_DENSE = ("normal", "rademacher")
DATTRI_MASK = "random_mask"


def trak_rademacher(n: int, k: int) -> Project:
    """TRAK's projector for machines without a GPU, with its defaults; ImportError where TRAK is not installed."""
    from trak.projectors import BasicProjector, ProjectionType

    projector = BasicProjector(n, k, seed=0, proj_type=ProjectionType.rademacher, device="cpu", block_size=BLOCK)
    return lambda grads: projector.project(grads, model_id=0)


def dattri(kind: str, n: int, k: int, seed: int = 0) -> Project:
    """dattri's public `random_project` on the CPU, with its defaults; ImportError where dattri is not installed."""
    from dattri.func.projection import random_project

    return random_project(torch.empty(1, n), 1, k, proj_max_batch_size=8, proj_seed=seed, proj_type=kind, device="cpu")


def block_bytes(n: int) -> int:
    """Memory of the part of a matrix that the dense projectors hold."""
    return 4 * BLOCK * n

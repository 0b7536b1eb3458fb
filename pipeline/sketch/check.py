"""The sketch's own error, measured: the same gradients under two seeds.

Two independent sketches of the same vectors give two estimates of each cosine; the error of one is their difference
over sqrt(2). Theory: a cosine rho has the standard deviation (1 - rho^2) / sqrt(K), whatever the gradients are.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from pipeline.errors import SketchError
from pipeline.sketch.accumulator import SketchWindow

CHECK_GROUP = "all"  # checks do not keep parameter groups apart


def compare_seeds(first: SketchWindow, second: SketchWindow) -> dict[str, Any]:
    """How far the cosines between datasets' mean gradients differ between two windows of the same micro-batches.

    Returns:
        `micro_batches` compared and, when two datasets are there, `pairs`, `cosine_error` (root mean square, of one
        sketch) and `expected_error` (theory, for these cosines).

    Raises:
        SketchError: the windows have one seed, or did not see the same micro-batches.
    """
    if first.spec.seed == second.spec.seed:
        raise SketchError("a sketch's error shows between two seeds, not within one", got=first.spec.seed)
    both = (first.count > 0) & (second.count > 0)
    numbers: dict[str, Any] = {"micro_batches": int(first.count.sum())}
    if not torch.equal(first.half_count, second.half_count):
        raise SketchError("the two seeds did not see the same micro-batches")
    pairs = torch.triu_indices(int(both.sum()), int(both.sum()), 1)
    if not pairs.shape[1]:
        return numbers
    cosines = torch.stack([_cosines(window, both)[pairs[0], pairs[1]] for window in (first, second)])
    numbers["pairs"] = pairs.shape[1]
    numbers["cosine_error"] = float((cosines[0] - cosines[1]).square().mean().sqrt()) / math.sqrt(2)
    theory = (1 - cosines.mean(0).square()) / math.sqrt(first.spec.k)
    numbers["expected_error"] = float(theory.square().mean().sqrt())
    return numbers


def _cosines(window: SketchWindow, rows: torch.Tensor) -> torch.Tensor:
    unit = torch.nn.functional.normalize(window.mean.sum(1)[rows].double(), dim=1)
    return unit @ unit.T

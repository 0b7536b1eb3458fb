"""One entry for sketching a tensor, wherever it lies."""

from __future__ import annotations

import torch

from pipeline.sketch import gpu
from pipeline.sketch.spec import SketchSpec


def add_sketch(grad: torch.Tensor, seed_p: int, out: torch.Tensor, offset: int = 0, scale: float = 1.0) -> None:
    """Add `scale` times the rotated fold of `grad` to `out` ([K] float32, on `grad`'s device), in place.

    `offset` is the index in the whole parameter of `grad`'s first element: sketches of pieces add up to the whole's.
    """
    if grad.device.type == "cpu":
        from pipeline.sketch import cpu  # here, because importing numba takes a second and other devices do without

        cpu.add_sketch(grad, seed_p, out, offset, scale)
    else:
        gpu.add_sketch(grad, seed_p, out, offset, scale)


def sketch_partition(
    name: str,
    fragment: torch.Tensor,
    offset: int,
    spec: SketchSpec,
    out: torch.Tensor,
    *,
    numel: int | None = None,
    scale: float = 1.0,
) -> None:
    """Add the sketch of one rank's partition of a gradient to `out` ([K] float32), in place.

    Under ZeRO-3 rank `r` of `W` holds elements from `r * ceil(numel / W)` on, padded at the end of the last partition;
    summing `out` over ranks gives the sketch of the whole gradient.

    Args:
        name: the parameter's name, as any wrapper calls it.
        fragment: this rank's flat piece.
        offset: index in the whole parameter of the fragment's first element.
        numel: elements of the whole parameter; what lies beyond is padding and is left out.
    """
    if numel is not None:
        fragment = fragment.reshape(-1)[: max(numel - offset, 0)]
    if fragment.numel():
        add_sketch(fragment, spec.seed_of(name), out, offset, scale)

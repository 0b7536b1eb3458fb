"""One entry for sketching a tensor, or the many tensors of one backward, wherever they lie."""

from __future__ import annotations

from typing import Protocol

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


class SketchRows(Protocol):
    """The sketches of several parameter groups, to which gradients are added while backward runs."""

    def add(self, grad: torch.Tensor, seed_p: int, row: int) -> None:
        """Add the rotated fold of `grad` to row `row`, now or later; `grad` must not be written to by the caller."""

    def result(self) -> torch.Tensor:
        """[R, K] float32: everything added so far."""


class DirectRows:
    """`SketchRows` that adds each gradient at once to `out` [R, K] float32."""

    def __init__(self, out: torch.Tensor) -> None:
        self._out = out

    def add(self, grad: torch.Tensor, seed_p: int, row: int) -> None:
        add_sketch(grad, seed_p, self._out[row])

    def result(self) -> torch.Tensor:
        return self._out


def sketch_rows(out: torch.Tensor) -> SketchRows:
    """The fastest `SketchRows` for the device of `out` ([R, K] float32, changed in place)."""
    if gpu.triton_works(out.device):
        from pipeline.sketch.multi_tensor import FoldQueue  # here, because it needs triton

        return FoldQueue(out)
    return DirectRows(out)


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

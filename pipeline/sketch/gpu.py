"""Sketching tensors on an accelerator: the Triton kernels where they work, else the torch reference in chunks."""

from __future__ import annotations

import functools
import warnings

import torch

from pipeline.sketch.reference import check_gradient, sketch

_CHUNK = 1 << 22  # elements; bounds the reference's temporary indices to some hundred MB
_CHECK_SEED = 0xDEAD_BEEF_1234_5678


def add_sketch(grad: torch.Tensor, seed_p: int, out: torch.Tensor, offset: int = 0, scale: float = 1.0) -> None:
    """Add `scale` times the rotated fold of `grad` to `out` ([K] float32 on the same device), in place."""
    if triton_works(grad.device):
        _add_with_triton(grad, seed_p, out, offset, scale)
    else:
        add_with_reference(grad, seed_p, out, offset, scale)


def add_with_reference(grad: torch.Tensor, seed_p: int, out: torch.Tensor, offset: int, scale: float) -> None:
    """`add_sketch` on any device and without triton; reads the gradient several times."""
    check_gradient(grad, offset)
    flat = grad.detach().reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        piece = sketch(flat[start : start + _CHUNK], seed_p, out.numel(), offset + start)
        out.add_(piece.to(out.dtype), alpha=scale)


@functools.cache
def triton_works(device: torch.device) -> bool:
    """Whether the Triton kernels run on `device` and agree with the reference there; warns once where they do not."""
    if device.type != "cuda":
        return False
    problem = triton_problem(device)
    if problem is not None:
        warnings.warn(
            f"gradients on {device} are sketched by the slow torch reference, because the Triton kernel does not work "
            f"here: {problem}",
            RuntimeWarning,
            stacklevel=2,
        )
    return problem is None


def triton_problem(device: torch.device) -> str | None:
    """What keeps the Triton kernels from working on `device`; None when nothing does.

    Compiles a kernel, which takes seconds, and sketches a small vector of whole numbers, whose sums are exact.
    """
    values = (torch.arange(4104, device=device) % 251 - 125).to(torch.bfloat16)
    ours, expected = torch.zeros(2, 64, device=device)
    add_with_reference(values, _CHECK_SEED, expected, offset=24, scale=1.0)
    try:
        _add_with_triton(values, _CHECK_SEED, ours, offset=24, scale=1.0)
    except ImportError as error:
        return f"{error}; try: pip install triton (`pip show torch` says which version it needs)"
    except Exception as error:  # no C compiler, an old GPU or driver, another Triton: training goes on either way
        return f"{type(error).__name__}: {error}"
    return None if torch.equal(ours, expected) else "its result differs from the reference"


def _add_with_triton(grad: torch.Tensor, seed_p: int, out: torch.Tensor, offset: int, scale: float) -> None:
    from pipeline.sketch.multi_tensor import FoldQueue  # here, because machines without a GPU do without triton

    queue = FoldQueue(out.view(1, -1))
    queue.add(grad, seed_p, 0, offset)
    queue.flush(scale)

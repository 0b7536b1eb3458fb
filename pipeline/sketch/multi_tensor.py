"""Sketching many gradients with one launch of the Triton kernels (`triton_kernel.py`). Needs triton.

A LoRA model has hundreds of small trainable tensors; launching a kernel for each costs far more than reading them. So
gradients wait in a queue and are sketched together: their addresses, sizes, offsets and seeds go to the device as one
table. The work is cut into *pieces* of whole rows of K; sketches of pieces add up, so a large tensor is many pieces and
a small one is one.

Why a waiting gradient cannot change. Autograd hands a gradient on to `.grad` without copying only if nobody else holds
it; while the queue holds it, `.grad` gets a copy of its own (`is_tensor_stealable` in torch's `accumulate_grad.h`).
What is done to `.grad` later does not reach the queue: accumulation in place, DeepSpeed re-pointing it into its reduce
bucket (`stage3.py`, `__add_grad_to_ipg_bucket`), or dividing and reducing it in place (`coalesced_collectives.py`,
`reduce_scatter_coalesced` with one tensor). The copy is why gradients from `_LARGE_BYTES` on do not wait.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import triton.language as tl

from pipeline.errors import SketchError
from pipeline.sketch.reference import check_gradient
from pipeline.sketch.triton_kernel import PIECE_FIELDS, ROW_FIELDS, VECTOR, add_rows, fold

_WAITING_BYTES = 64 << 20  # sketch what waits once it is more than this
_LARGE_BYTES = 8 << 20  # such a gradient, and what waits, is sketched at once
_PROGRAMS_PER_PROCESSOR = 4  # as many programs of `fold` as the registers of one multiprocessor have room for
_PROGRAMS_ELSEWHERE = 8  # in Triton's interpreter
_MIN_ROWS = 8  # of K, in a piece: writing its sums must cost less than reading it
_ELEMENTS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


@dataclass(frozen=True)
class _Waiting:
    grad: torch.Tensor  # contiguous, of a type in _ELEMENTS
    seed_p: int
    row: int
    offset: int
    version: int  # torch's count of changes in place when the gradient came

    @property
    def kind(self) -> tuple[torch.dtype, bool]:
        """Element type and whether the kernel may load 16 bytes at once: what needs launches apart."""
        sizes = (self.grad.data_ptr() % 16, self.offset % VECTOR, self.grad.numel() % VECTOR)
        return self.grad.dtype, sizes == (0, 0, 0)


class FoldQueue:
    """Adds rotated folds of gradients to the rows of `out`, many at a time.

    Everything runs on the stream that was current when the queue was made; gradients that come on another stream are
    waited for. Sums have a fixed order: by row, then in the order of `add`.

    Args:
        out: [R, K] float32, contiguous; changed in place by `flush`.
    """

    def __init__(self, out: torch.Tensor) -> None:
        if out.dtype != torch.float32 or out.ndim != 2 or not out.is_contiguous():
            raise SketchError("sketches are added to a contiguous float32 matrix", got=f"{out.dtype} {out.shape}")
        self._out = out
        self._k = out.shape[1]
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self._stream = torch.cuda.current_stream(out.device) if out.is_cuda else None

    def add(self, grad: torch.Tensor, seed_p: int, row: int, offset: int = 0) -> None:
        """Add the fold of `grad` to `out[row]`, at the latest at the next `flush` or `result`.

        Args:
            grad: any shape and strides, on the device of `out`. It must not be written to until then.
            seed_p: `SketchSpec.seed_of(name)`.
            offset: index in the whole parameter of the first element of `grad`.

        Raises:
            SketchError: `grad` is not a dense floating-point tensor, or has too many elements to number.
        """
        check_gradient(grad, offset)
        if not grad.numel():
            return
        # The tensor itself, not an alias: see the module's docstring.
        kept = grad if grad.is_contiguous() and grad.dtype in _ELEMENTS else _readable(grad)
        if self._stream is not None:
            current = torch.cuda.current_stream(kept.device)
            if current != self._stream:
                self._stream.wait_stream(current)
                kept.record_stream(self._stream)
        self._waiting.append(_Waiting(kept, seed_p, row, offset, kept._version))
        self._waiting_bytes += kept.nbytes
        if kept.nbytes >= _LARGE_BYTES or self._waiting_bytes >= _WAITING_BYTES:
            self.flush()

    def flush(self, scale: float = 1.0) -> None:
        """Add `scale` times what waits to `out`.

        Raises:
            SketchError: a gradient was written to while it waited.
        """
        waiting = sorted(self._waiting, key=lambda each: each.row)  # stable: in order of arrival within a row
        self._waiting, self._waiting_bytes = [], 0
        if not waiting:
            return
        if any(each.grad._version != each.version for each in waiting):
            raise SketchError(
                "a gradient was changed in place before it was sketched",
                hint="register hooks that change gradients before the sketcher's",
            )
        on_stream: AbstractContextManager[None] = nullcontext()
        if self._stream is not None:
            on_stream = torch.cuda.stream(self._stream)
        with on_stream:
            self._launch(waiting, scale)

    def _launch(self, waiting: list[_Waiting], scale: float) -> None:
        k, device = self._k, self._out.device
        pieces, rows, kinds = _tables(waiting, k, _programs(device))
        table = _to_device(np.concatenate([pieces.reshape(-1), rows.reshape(-1)]), device)
        part = torch.empty(len(pieces), 2, k, dtype=torch.float32, device=device)
        start = 0
        for (dtype, aligned), count in kinds.items():
            wide = dtype.itemsize > 2
            groups = _groups(k, wide)
            fold[(count * k // (VECTOR * groups),)](
                table[start * PIECE_FIELDS :], part, K=k, G=groups, ELEMENT=_ELEMENTS[dtype], WIDE=wide,
                ALIGNED=aligned, num_warps=max(1, min(4, groups // 64)),
            )  # fmt: skip
            start += count
        buckets = min(k, 64)
        add_rows[(k // buckets, len(rows))](
            part, table[pieces.size :], self._out, scale, K=k, BUCKETS=buckets, PARTS=64, num_warps=4
        )

    def result(self) -> torch.Tensor:
        """`out` with everything added, ready on the current stream."""
        self.flush()
        if self._stream is not None:
            current = torch.cuda.current_stream(self._out.device)
            if current != self._stream:
                current.wait_stream(self._stream)
                self._out.record_stream(current)
        return self._out


def _readable(grad: torch.Tensor) -> torch.Tensor:
    """A row-major copy of a type that the kernel reads."""
    return grad.detach().to(grad.dtype if grad.dtype in _ELEMENTS else torch.float32).contiguous()


def _groups(k: int, wide: bool) -> int:
    """Groups of VECTOR buckets for one program: two for each of 128 lanes, one where elements are wide."""
    return min(k // VECTOR, 128 if wide else 256)


def _programs(device: torch.device) -> int:
    """Programs of `fold` that run at the same time."""
    if device.type != "cuda":
        return _PROGRAMS_ELSEWHERE
    return _PROGRAMS_PER_PROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count


def _to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy on `device` that the CPU does not wait for; torch keeps the pinned source until the copy is done."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _tables(
    waiting: list[_Waiting], k: int, programs: int
) -> tuple[np.ndarray, np.ndarray, dict[tuple[torch.dtype, bool], int]]:
    """Cut the gradients, sorted by row, into pieces of about equal numbers of rows of K.

    Returns:
        pieces: [P, PIECE_FIELDS] int64, those of one kind together; slots are in the order of `waiting`.
        rows: [R, ROW_FIELDS] int64, one line for each different row.
        kinds: kind -> number of pieces, in the order of `pieces`.
    """
    kinds = list(dict.fromkeys(each.kind for each in waiting))
    columns = [
        (each.grad.data_ptr(), each.grad.numel(), each.offset, _signed64(each.seed_p), each.row,
         each.grad.itemsize, kinds.index(each.kind))
        for each in waiting
    ]  # fmt: skip
    address, numel, offset, seed, row, itemsize, kind = np.array(columns, dtype=np.int64).T
    first_row = offset // k
    n_rows = (offset + numel + k - 1) // k - first_row
    strips = k // (VECTOR * _groups(k, bool((itemsize > 2).all())))
    rows_in_piece = max(_MIN_ROWS, -(-int(n_rows.sum()) * strips // programs))
    count = -(-n_rows // rows_in_piece)
    owner = np.repeat(np.arange(len(waiting)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    start = np.maximum(offset[owner], (first_row[owner] + number * rows_in_piece) * k)
    stop = np.minimum((offset + numel)[owner], (first_row[owner] + (number + 1) * rows_in_piece) * k)
    slot = np.arange(len(owner))
    moved = address[owner] + (start - offset[owner]) * itemsize[owner]
    pieces = np.stack([moved, stop - start, start, seed[owner], slot], axis=1)
    different = np.unique(row)
    row_of_slot = row[owner]
    rows = np.stack(
        [different, np.searchsorted(row_of_slot, different), np.searchsorted(row_of_slot, different, side="right")],
        axis=1,
    )
    assert pieces.shape[1] == PIECE_FIELDS and rows.shape[1] == ROW_FIELDS
    of_kind = np.bincount(kind[owner], minlength=len(kinds))
    order = np.argsort(kind[owner], kind="stable")
    return pieces[order], rows, {each: int(n) for each, n in zip(kinds, of_kind, strict=True)}


def _signed64(value: int) -> int:
    """The 64-bit pattern of `value` as a signed integer."""
    return value - (1 << 64) if value >= 1 << 63 else value

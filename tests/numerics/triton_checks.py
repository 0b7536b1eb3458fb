"""The Triton kernels against the reference, on a GPU or, with `TRITON_INTERPRET=1`, on CPU tensors in the interpreter.

Not collected by itself: `test_sketch_triton.py` runs it in a process of its own, because that variable must be set
before triton is imported, and `tests/gpu/test_sketch_gpu.py` runs it on the GPU.

Gradients of small whole numbers have exact sums in any order: equality is then exact, and one wrong sign or bucket
shows.
"""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np
import pytest
import torch

from pipeline.errors import SketchError
from pipeline.sketch import gpu, multi_tensor
from pipeline.sketch.hooks import GradientSketcher
from pipeline.sketch.multi_tensor import FoldQueue
from pipeline.sketch.reference import MAX_INDEX, sketch
from pipeline.sketch.spec import SketchSpec
from pipeline.sketch.triton_kernel import PIECE_FIELDS

SEED_P = 0xDEAD_BEEF_1234_5678
DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda:0")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def whole_numbers(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randint(-9, 10, (n,), generator=torch.Generator().manual_seed(n)).to(DEVICE, dtype)


def fold(grad: torch.Tensor, k: int, offset: int = 0, seed_p: int = SEED_P) -> torch.Tensor:
    out = torch.zeros(k, device=DEVICE)
    gpu._add_with_triton(grad, seed_p, out, offset, 1.0)
    return out


def expected(grad: torch.Tensor, k: int, offset: int = 0, seed_p: int = SEED_P) -> torch.Tensor:
    return sketch(grad, seed_p, k, offset).float()


class ReferenceRows:
    """`SketchRows` that sketches at once and with the reference."""

    def __init__(self, out: torch.Tensor) -> None:
        self.out = out

    def add(self, grad: torch.Tensor, seed_p: int, row: int) -> None:
        gpu.add_with_reference(grad, seed_p, self.out[row], 0, 1.0)

    def result(self) -> torch.Tensor:
        return self.out


def test_the_self_check_passes() -> None:
    assert gpu.triton_problem(DEVICE) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [32, 64, 1024, 4096])
def test_kernel_equals_reference_around_the_sketch_size(dtype: torch.dtype, k: int) -> None:
    for n in (1, k - 1, k, k + 1, 3 * k + 8):
        grad = whole_numbers(n, dtype)
        assert torch.equal(fold(grad, k), expected(grad, k)), n


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [20_480, 16_901])
def test_many_pieces_equal_reference(dtype: torch.dtype, n: int) -> None:
    grad = whole_numbers(n, dtype)
    assert n // 256 > multi_tensor._MIN_ROWS
    assert torch.equal(fold(grad, 256), expected(grad, 256))


@pytest.mark.parametrize(
    ("k", "offset", "seed_p"),
    [
        (64, 8, 0),
        (64, 2**31 - 8, SEED_P),
        (64, 2**33 + 5, 2**64 - 1),
        (64, MAX_INDEX - 1000, 2**63),
        (16_384, 2**36 + 8, SEED_P),
        (16_384, MAX_INDEX - 1000, 2**64 - 1),
    ],
)
def test_offsets_and_seeds_of_all_sizes(k: int, offset: int, seed_p: int) -> None:
    grad = whole_numbers(1000, torch.bfloat16)
    assert torch.equal(fold(grad, k, offset, seed_p), expected(grad, k, offset, seed_p))


def test_real_numbers_agree_to_float32_rounding() -> None:
    grad = torch.randn(9_000, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    for each in (grad, grad.bfloat16(), grad.half(), grad.double()):
        assert torch.allclose(fold(each, 512).double(), sketch(each, SEED_P, 512), atol=2e-5)


def test_shards_and_splits_add_up() -> None:
    grad = whole_numbers(5007)
    whole, added = fold(grad, 256), torch.zeros(1, 256, device=DEVICE)
    queue = FoldQueue(added)
    for start, stop in pairwise([0, 1, 37, 37, 2048, 4001, 5007]):
        queue.add(grad[start:stop], SEED_P, 0, offset=start)
    assert torch.equal(queue.result()[0], whole)


def test_any_strides_are_read_in_row_major_order() -> None:
    grad = whole_numbers(17 * 40).view(17, 40)
    for view in (grad.t(), grad[::2, 1::3], grad.expand(2, 17, 40), grad.bfloat16().t(), grad.flatten()[3:]):
        assert torch.equal(fold(view, 64), expected(view.contiguous(), 64))


def mixed_gradients() -> list[tuple[torch.Tensor, int, int, int]]:
    """(gradient, seed, row, offset) of different sizes, types and alignment, rows in no order."""
    generator = torch.Generator().manual_seed(3)
    sizes = [1, 500, 8, 1024, 300, 33, 520, 0, 640]
    return [
        (
            torch.randn(n, generator=generator).to(DEVICE, DTYPES[i % 3]),
            SEED_P + i,
            [4, 0, 2][i % 3 - i // 5],
            8 * i * (i % 2),
        )
        for i, n in enumerate(sizes)
    ]


def test_one_launch_of_many_equals_one_by_one_and_repeats_to_the_bit() -> None:
    queues = [FoldQueue(torch.ones(5, 128, device=DEVICE)) for _ in range(2)]
    for queue in queues:
        for grad, seed_p, row, offset in mixed_gradients():
            queue.add(grad, seed_p, row, offset)
        queue.flush(scale=-0.5)
    one_by_one = torch.ones(5, 128, device=DEVICE)
    for grad, seed_p, row, offset in mixed_gradients():
        gpu._add_with_triton(grad, seed_p, one_by_one[row], offset, -0.5)
    assert torch.equal(queues[0].result(), queues[1].result())
    assert torch.allclose(queues[0].result(), one_by_one, atol=1e-5)
    assert torch.equal(one_by_one[[1, 3]], torch.ones(2, 128, device=DEVICE))
    assert (one_by_one[[0, 2, 4]] - 1).abs().sum(1).min() > 1


def test_pieces_of_a_tensor_beyond_2_to_the_31_cover_it_once() -> None:
    grad, offset, k = torch.empty(2**32 + 4096, dtype=torch.bfloat16, device="meta"), 2**31 + 8, 4096
    waiting = multi_tensor._Waiting(grad, SEED_P, 1, offset, 0)
    pieces, rows, kinds = multi_tensor._tables([waiting], k, programs=528)
    assert pieces.shape == (264, PIECE_FIELDS) and rows.tolist() == [[1, 0, 264]]
    assert kinds == {(torch.bfloat16, True): 264}
    address, numel, start, seed, slot = pieces.T
    assert np.array_equal(start, offset + np.concatenate([[0], np.cumsum(numel)[:-1]])) and numel.sum() == grad.numel()
    assert np.array_equal(address, (start - offset) * 2)
    assert (start[1:] % k == 0).all() and (numel > 0).all() and slot.tolist() == list(range(264))
    assert set(seed.astype(np.uint64).tolist()) == {SEED_P}


def test_a_large_gradient_or_much_waiting_is_sketched_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_tensor, "_LARGE_BYTES", 4000)
    monkeypatch.setattr(multi_tensor, "_WAITING_BYTES", 6000)
    out = torch.zeros(2, 64, device=DEVICE)
    queue, small = FoldQueue(out), whole_numbers(600)
    queue.add(small, 1, 0)
    queue.add(small, 2, 1)
    assert not out.any()
    queue.add(small, 3, 1)
    together = torch.stack([expected(small, 64, 0, 1), expected(small, 64, 0, 2) + expected(small, 64, 0, 3)])
    assert torch.equal(out, together)
    queue.add(whole_numbers(1000), 4, 0)
    assert torch.equal(out[0], together[0] + expected(whole_numbers(1000), 64, 0, 4))


@pytest.mark.parametrize("large", [False, True])
def test_autograd_copies_a_waiting_gradient_and_hands_on_a_sketched_one(
    large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multi_tensor, "_LARGE_BYTES", 1 if large else 10**9)
    queue, seen = FoldQueue(torch.zeros(1, 64, device=DEVICE)), []
    layer = torch.nn.Linear(40, 30, bias=False, device=DEVICE)

    def hook(grad: torch.Tensor) -> None:
        seen.append(grad.data_ptr())
        queue.add(grad, SEED_P, 0)

    layer.weight.register_hook(hook)
    layer(torch.randn(5, 40, device=DEVICE)).square().sum().backward()
    assert (layer.weight.grad.data_ptr() == seen[0]) is large


def test_what_happens_to_grad_after_the_hook_does_not_reach_the_sketch() -> None:
    # What DeepSpeed does to `.grad`: divides in place, re-points it, frees it; and two backwards accumulate in place.
    spec = SketchSpec(k=64, seed=5)
    model = torch.nn.Sequential(torch.nn.Linear(24, 24), torch.nn.Tanh(), torch.nn.Linear(24, 3)).to(DEVICE)
    inputs = torch.randn(4, 24, device=DEVICE)
    queued = GradientSketcher(model.named_parameters(), spec, rows_of=FoldQueue)
    reference = GradientSketcher(model.named_parameters(), spec, rows_of=ReferenceRows)

    def reduce(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        if parameter.ndim == 1:
            parameter.grad.data.div_(7)
        else:
            parameter.grad.data.view(-1).fill_(99)
            parameter.grad.data = torch.zeros_like(parameter.grad)
            parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(reduce)
    with queued.micro_batch(scale=3), reference.micro_batch(scale=3):
        for _ in range(2):
            model(inputs).square().sum().backward()
    taken = queued.take()
    assert torch.allclose(taken, reference.take(), rtol=1e-5, atol=1e-4)
    assert taken.abs().sum() > 1


def test_a_gradient_that_a_later_hook_changes_is_refused() -> None:
    queue, grad = FoldQueue(torch.zeros(1, 64, device=DEVICE)), torch.ones(100, device=DEVICE)
    queue.add(grad, SEED_P, 0)
    grad.mul_(2)
    with pytest.raises(SketchError, match="changed in place"):
        queue.flush()
    assert not queue.result().any()


def test_wrong_input_is_refused() -> None:
    queue = FoldQueue(torch.zeros(1, 64, device=DEVICE))
    with pytest.raises(SketchError, match="floating"):
        queue.add(torch.arange(10), SEED_P, 0)
    with pytest.raises(SketchError, match="floating"):
        queue.add(torch.eye(4).to_sparse(), SEED_P, 0)
    with pytest.raises(SketchError, match="indices"):
        queue.add(torch.ones(3), SEED_P, 0, offset=MAX_INDEX - 2)
    with pytest.raises(SketchError, match="float32"):
        FoldQueue(torch.zeros(2, 64).t())

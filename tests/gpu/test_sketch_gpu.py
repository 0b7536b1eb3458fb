"""The sketch on a real GPU: the checks of the interpreter again, and what only a GPU shows.

Needs torch with CUDA, triton and pytest, nothing else of the project's dependencies (`--noconftest` then).
"""

from __future__ import annotations

import pytest
import torch

from pipeline.sketch import gpu
from pipeline.sketch.hooks import GradientSketcher, default_group_of
from pipeline.sketch.projector import add_sketch
from pipeline.sketch.reference import sketch
from pipeline.sketch.spec import SketchSpec

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
pytest.importorskip("triton", reason="triton is not installed; it comes with torch's CUDA wheels on Linux")

from tests.numerics.triton_checks import *  # noqa: E402, F403
from tests.numerics.triton_checks import SEED_P  # noqa: E402

GPU = torch.device("cuda:0")
SPEC = SketchSpec(k=4096, seed=5)


@pytest.mark.filterwarnings("error")
def test_the_dispatcher_picks_triton() -> None:
    gpu.triton_works.cache_clear()
    assert gpu.triton_works(GPU)
    grad, out = torch.ones(100, device=GPU), torch.zeros(64, device=GPU)
    add_sketch(grad, SEED_P, out, offset=3, scale=2.0)
    assert torch.equal(out.cpu(), 2 * sketch(torch.ones(100), SEED_P, 64, 3).float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_layer_gradient_gives_the_cpu_reference_and_the_same_bits_each_time(dtype: torch.dtype, shift: int) -> None:
    grad = torch.randn(3000 * 4096 + 8 + shift, generator=torch.Generator().manual_seed(1)).to(dtype)[shift:]
    out = torch.zeros(2, 4096, device=GPU)
    for row in out:
        gpu.add_sketch(grad.to(GPU), SEED_P, row, offset=shift)
    assert torch.equal(out[0], out[1])
    exact = sketch(grad, SEED_P, 4096, shift)
    assert float((out[0].cpu().double() - exact).norm() / exact.norm()) < 1e-6


def test_more_than_2_to_the_31_elements() -> None:
    n = 2**31 + 4096 * 5 + 8
    if torch.cuda.mem_get_info(GPU)[0] < 3 * n:
        pytest.skip("needs 6 GB of free GPU memory")
    grad = torch.zeros(n, dtype=torch.bfloat16, device=GPU)
    tail = torch.randint(-9, 10, (50_000,), generator=torch.Generator().manual_seed(2))
    grad[-50_000:] = tail.to(GPU, torch.bfloat16)
    out = torch.zeros(4096, device=GPU)
    gpu.add_sketch(grad, SEED_P, out)
    assert torch.equal(out.cpu(), sketch(tail.double(), SEED_P, 4096, n - 50_000).float())


@pytest.mark.parametrize("side_stream", [False, True])
def test_hooks_equal_the_reference_sketch_of_grad(side_stream: bool) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.LayerNorm(512)) for _ in range(12)]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(512, 9001)).to(GPU, torch.bfloat16)
    inputs = torch.randn(64, 512, device=GPU, dtype=torch.bfloat16)
    sketcher = GradientSketcher(model.named_parameters(), SPEC)
    stream = torch.cuda.Stream() if side_stream else torch.cuda.current_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with sketcher.micro_batch():
        with torch.cuda.stream(stream):
            loss = model(inputs).float().square().mean()
        loss.backward()
    taken = sketcher.take().cpu().double()
    expected = torch.zeros_like(taken)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        row = sketcher.groups.index(default_group_of("kind")(name))
        expected[row] += sketch(parameter.grad.cpu(), SPEC.seed_of(name), SPEC.k)
    assert float((taken - expected).norm() / expected.norm()) < 1e-5


def test_a_gradient_that_is_not_finite_shows_in_the_sketch() -> None:
    for bad in (float("nan"), float("inf")):
        grad, out = torch.ones(100_000, device=GPU, dtype=torch.float16), torch.zeros(4096, device=GPU)
        grad[77_777] = bad
        gpu.add_sketch(grad, SEED_P, out)
        assert int((~torch.isfinite(out)).sum()) == 1

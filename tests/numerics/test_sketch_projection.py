"""The rotated fold: definition, fast kernel, statistics, additivity, seeds."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise

import pytest
import torch

from pipeline.errors import SketchError
from pipeline.sketch import cpu, gpu
from pipeline.sketch.projector import add_sketch, sketch_partition
from pipeline.sketch.reference import sketch
from pipeline.sketch.spec import SketchSpec, canonical_name, model_digest, name_seed

SEED_P = 0xDEAD_BEEF_1234_5678
GOLDEN = [-140, -109, 30, 149, -112, 9, 34, -35, -116, 85, 86, -17, 72, 15, -74, 75, 76, -43, 130, 41, 136, -49, -38]
GOLDEN += [-131, -132, 151, 231, 37, -235, -101, 2, -137]


def fold(values: torch.Tensor, seed_p: int, k: int, offset: int = 0) -> torch.Tensor:
    out = torch.zeros(k)
    cpu.add_sketch(values, seed_p, out, offset)
    return out


def outlier_gradients(rows: int, columns: int, count: int) -> torch.Tensor:
    """[count, rows * columns]: heavy tails and four outlier input features, as real layer gradients have."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, rows, columns)
    base = torch.randn(rows, columns, generator=generator)
    chi2 = torch.randn(3, *shape, generator=generator).square().sum(0) / 3
    grads = 0.5 * base + torch.randn(shape, generator=generator) / chi2.sqrt()
    grads *= torch.randn(rows, 1, generator=generator).exp() * torch.randn(columns, generator=generator).exp()
    grads[:, :, torch.randperm(columns, generator=generator)[:4]] *= 30
    return grads.reshape(count, -1)


def rms_cosine_error(grads: torch.Tensor, sketches: torch.Tensor) -> float:
    """sketches: [seeds, count, K]."""
    upper = torch.triu_indices(len(grads), len(grads), 1)
    unit = torch.nn.functional.normalize(grads.double(), dim=1)
    unit_sketch = torch.nn.functional.normalize(sketches.double(), dim=2)
    error = unit_sketch @ unit_sketch.mT - unit @ unit.T
    return float(error[:, upper[0], upper[1]].square().mean().sqrt())


@pytest.mark.parametrize("k", [1024, 4096])
def test_cosine_error_is_at_theory_where_a_plain_fold_fails(k: int) -> None:
    grads = outlier_gradients(rows=160, columns=4096, count=6)
    seeds = [name_seed(seed, "layer.weight") for seed in range(48)]
    rotated = torch.stack([torch.stack([fold(grad, seed_p, k) for grad in grads]) for seed_p in seeds])
    signs = torch.where(torch.rand(4, 1, grads.shape[1]) < 0.5, -1.0, 1.0)
    plain = (grads * signs).view(4, len(grads), -1, k).sum(2)
    assert rms_cosine_error(grads, rotated) * math.sqrt(k) < 1.1
    assert rms_cosine_error(grads, plain) * math.sqrt(k) > 2.0


def test_inner_products_and_norms_are_unbiased() -> None:
    x, y = torch.randn(2, 700, generator=torch.Generator().manual_seed(1)).double()
    y = 0.5 * x + y
    k, n_seeds = 32, 1500
    pairs = [(sketch(x, name_seed(s, "p"), k), sketch(y, name_seed(s, "p"), k)) for s in range(n_seeds)]
    for estimates, truth in (
        (torch.stack([a @ b for a, b in pairs]), x @ y),
        (torch.stack([a @ a for a, _ in pairs]), x @ x),
    ):
        standard_error = float(estimates.std()) / math.sqrt(n_seeds)
        assert abs(float(estimates.mean() - truth)) < 3.5 * standard_error
        theory = math.sqrt(float((x @ x) * ((y @ y) if truth == x @ y else (x @ x)) + truth**2) / k)
        assert float(estimates.std()) < 1.1 * theory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("n", "offset"), [(1, 0), (31, 1), (64, 32), (100, 30), (4097, 4095), (70_001, 12_345)])
@pytest.mark.parametrize("k", [32, 1024])
def test_kernel_equals_reference(dtype: torch.dtype, n: int, offset: int, k: int) -> None:
    grad = torch.randn(n, generator=torch.Generator().manual_seed(n)).to(dtype)
    expected = sketch(grad.float(), SEED_P, k, offset)
    scale_of_rounding = 1e-6 * float(sketch(grad.double().abs(), SEED_P, k, offset).abs().sum() + grad.abs().sum())
    assert torch.allclose(fold(grad, SEED_P, k, offset).double(), expected, atol=scale_of_rounding / math.sqrt(k))


def test_kernel_reads_any_strides_in_row_major_order() -> None:
    grad = torch.randn(33, 70)
    for view in (grad.t(), grad[::2, 1::3], grad.expand(2, 33, 70), grad.bfloat16().t()):
        assert not view.is_contiguous()
        assert torch.equal(fold(view, SEED_P, 64), fold(view.contiguous(), SEED_P, 64))


def test_kernel_adds_with_scale_and_large_offsets() -> None:
    grad = torch.randn(1000)
    out = torch.ones(64)
    cpu.add_sketch(grad, SEED_P, out, offset=2**33 + 5, scale=-2.0)
    assert torch.allclose(out.double(), 1 - 2 * sketch(grad, SEED_P, 64, 2**33 + 5), atol=1e-4)


def test_accelerator_path_and_dispatch_equal_reference() -> None:
    grad = torch.randn(5000)
    out, dispatched = torch.zeros(128), torch.zeros(128)
    gpu.add_sketch(grad, SEED_P, out, offset=7, scale=3.0)
    add_sketch(grad, SEED_P, dispatched, offset=7, scale=3.0)
    expected = 3 * sketch(grad, SEED_P, 128, 7)
    assert torch.allclose(out.double(), expected, atol=1e-4)
    assert torch.allclose(dispatched.double(), expected, atol=1e-4)


def test_sketch_is_linear() -> None:
    x, y = torch.randn(2, 50_000)
    assert torch.allclose(
        fold(2 * x - 3 * y, SEED_P, 1024), 2 * fold(x, SEED_P, 1024) - 3 * fold(y, SEED_P, 1024), atol=1e-3
    )


def test_shards_with_odd_offsets_add_up() -> None:
    grad = torch.randn(100_003)
    whole, out = fold(grad, SEED_P, 1024), torch.zeros(1024)
    edges = [0, 1, 37, 33_333, 70_001, 100_003]
    for start, stop in pairwise(edges):
        cpu.add_sketch(grad[start:stop], SEED_P, out, offset=start)
    assert torch.allclose(out, whole, atol=1e-4)


@pytest.mark.parametrize("world_size", [2, 3])
def test_partitions_with_padding_add_up(world_size: int) -> None:
    spec = SketchSpec(k=256, seed=3)
    grad, size = torch.randn(1001), -(-1001 // world_size)
    padded = torch.cat([grad, torch.full((size * world_size - 1001,), 99.0)])
    out = torch.zeros(spec.k)
    for rank in range(world_size):
        piece = padded[rank * size : (rank + 1) * size]
        sketch_partition("module.layer.weight", piece, rank * size, spec, out, numel=grad.numel())
    assert torch.allclose(out, fold(grad, spec.seed_of("layer.weight"), spec.k), atol=1e-4)


def test_golden_values_pin_the_definition() -> None:
    # Stored sketches outlive the code: a change here needs another SKETCH_VERSION.
    values = torch.arange(1, 101, dtype=torch.float32)
    golden = sketch(values, name_seed(7, "layers.0.weight"), 32).long().tolist()
    assert golden == GOLDEN
    assert fold(values, name_seed(7, "layers.0.weight"), 32).long().tolist() == GOLDEN


@pytest.mark.parametrize(
    "wrapped",
    [
        "layers.3.q_proj.lora_A.weight",
        "module.layers.3.q_proj.lora_A.weight",
        "module.module.base_model.model.layers.3.q_proj.lora_A.default.weight",
        "base_model.model._orig_mod.layers.3._checkpoint_wrapped_module.q_proj.lora_A.weight",
    ],
)
def test_names_do_not_depend_on_wrappers(wrapped: str) -> None:
    spec = SketchSpec(k=64, seed=1)
    assert canonical_name(wrapped) == "layers.3.q_proj.lora_A.weight"
    assert spec.seed_of(wrapped) == spec.seed_of("layers.3.q_proj.lora_A.weight")


def test_inner_modules_called_like_a_wrapper_stay_apart() -> None:
    assert canonical_name("projector.modules_to_save.default.weight") == "projector.weight"
    assert canonical_name("q_proj.base_layer.weight") == "q_proj.weight"
    assert canonical_name("encoder.module.weight") == "encoder.module.weight"
    assert canonical_name("module") == "module"


def test_seeds_differ_by_name_and_seed() -> None:
    assert len({name_seed(seed, name) for seed in range(50) for name in ("a", "b", "a.b")}) == 150
    assert name_seed(0, "a") < 2**64


@pytest.mark.parametrize("k", [0, 16, 48, 4095, 2**21, -64])
def test_sizes_that_are_no_power_of_two_are_refused(k: int) -> None:
    with pytest.raises(SketchError, match="size"):
        SketchSpec(k=k, seed=0)


def test_spec_identifies_the_projection() -> None:
    spec = SketchSpec(k=64, seed=1)
    assert SketchSpec.from_json(spec.to_json()) == spec == pickle.loads(pickle.dumps(spec))
    assert len({spec.digest, SketchSpec(k=64, seed=2).digest, SketchSpec(k=128, seed=1).digest}) == 3
    spec.require_same(SketchSpec(k=64, seed=1), "here")
    with pytest.raises(SketchError, match="differ in seed"):
        spec.require_same(SketchSpec(k=64, seed=2), "here")
    with pytest.raises(SketchError, match="version"):
        SketchSpec(k=64, seed=1, version=2)
    with pytest.raises(SketchError, match="version 2"):
        SketchSpec.from_json({**spec.to_json(), "version": 2})
    with pytest.raises(SketchError, match="does not say which"):
        SketchSpec.from_json({"k": 64, "seed": 1})
    with pytest.raises(SketchError, match="kind of gradient"):
        SketchSpec(k=64, seed=1, gradient="momentum")


@pytest.mark.parametrize(
    ("field", "value"), [("seed", 2), ("k", 128), ("gradient", "sign"), ("gradient", "adam"), ("model", "abc")]
)
def test_sketches_of_another_kind_have_another_digest_and_are_refused(field: str, value: object) -> None:
    spec = SketchSpec(k=64, seed=1)
    other = SketchSpec(**{**spec.to_json(), field: value})
    assert other.digest != spec.digest
    with pytest.raises(SketchError, match=f"differ in {field}"):
        spec.require_same(other, "here")


def test_a_model_is_known_by_its_base_and_its_trainable_parameters() -> None:
    shapes = {"a": (2, 3), "b": (4,)}
    digest = model_digest("base", shapes)
    assert digest == model_digest("base", dict(reversed(shapes.items())))
    assert len({digest, model_digest("other", shapes), model_digest("base", {**shapes, "a": (3, 2)})}) == 3


def test_tensors_that_cannot_be_sketched_are_refused() -> None:
    with pytest.raises(SketchError, match="floating"):
        fold(torch.arange(10), SEED_P, 32)
    with pytest.raises(SketchError, match="floating"):
        fold(torch.eye(4).to_sparse(), SEED_P, 32)
    with pytest.raises(SketchError, match="float32"):
        cpu.add_sketch(torch.ones(3), SEED_P, torch.zeros(32, dtype=torch.float64))
    with pytest.raises(SketchError, match="indices"):
        fold(torch.ones(3), SEED_P, 32, offset=-1)

"""Hooks against the gradients that autograd leaves in `.grad`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from pipeline.errors import ConfigError, SketchError
from pipeline.sketch.hooks import GradientSketcher, default_group_of
from pipeline.sketch.reference import sketch
from pipeline.sketch.spec import SketchSpec

SPEC = SketchSpec(k=256, seed=5)


class Tied(torch.nn.Module):
    """An embedding whose weight is also the output head, a layer used twice, and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 24)
        self.twice = torch.nn.Linear(24, 24)
        self.frozen = torch.nn.Linear(24, 24)
        self.norm = torch.nn.LayerNorm(24)
        self.head = torch.nn.Linear(24, 50, bias=False)
        self.head.weight = self.embed.weight
        self.frozen.requires_grad_(False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.twice(torch.tanh(self.twice(self.embed(tokens))))
        return self.head(self.norm(self.frozen(hidden)))


@pytest.fixture
def model() -> Tied:
    torch.manual_seed(0)
    return Tied()


@pytest.fixture
def sketcher(model: Tied) -> Iterator[GradientSketcher]:
    made = GradientSketcher(model.named_parameters(), SPEC)
    yield made
    made.close()


def loss_of(model: torch.nn.Module, seed: int = 0) -> torch.Tensor:
    tokens = torch.randint(50, (4, 9), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def expected(model: torch.nn.Module, sketcher: GradientSketcher) -> torch.Tensor:
    """[G, K] reference sketch of what lies in `.grad`."""
    group_of = default_group_of("kind")
    result = torch.zeros(len(sketcher.groups), SPEC.k, dtype=torch.float64)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            row = sketcher.groups.index(group_of(name))
            result[row] += sketch(parameter.grad, SPEC.seed_of(name), SPEC.k)
    return result


def test_hooks_equal_the_sketch_of_grad_with_tied_reused_and_frozen_weights(
    model: Tied, sketcher: GradientSketcher
) -> None:
    with sketcher.micro_batch():
        loss_of(model).backward()
    taken = sketcher.take()
    assert sketcher.groups == ["embed", "norm", "other"]
    assert not any("frozen" in name for name in sketcher.shapes)
    assert torch.allclose(taken.double(), expected(model, sketcher), atol=1e-5)
    assert float(taken.abs().sum(1).min()) > 0


def test_a_shared_parameter_listed_twice_is_counted_once(model: Tied) -> None:
    sketcher = GradientSketcher(model.named_parameters(remove_duplicate=False), SPEC)
    with sketcher.micro_batch():
        loss_of(model).backward()
    assert torch.allclose(sketcher.take().double(), expected(model, sketcher), atol=1e-5)


def test_scaled_micro_batches_average_to_the_accumulated_gradient(model: Tied, sketcher: GradientSketcher) -> None:
    steps, taken = 3, []
    for step in range(steps):
        with sketcher.micro_batch(scale=steps):
            (loss_of(model, step) / steps).backward()
        taken.append(sketcher.take())
    assert torch.allclose(torch.stack(taken).mean(0).double(), expected(model, sketcher), atol=1e-5)
    model.zero_grad()
    loss_of(model, 1).backward()
    assert torch.allclose(taken[1].double(), expected(model, sketcher), atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_and_several_backwards_in_one_block(reentrant: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8))
    sketcher = GradientSketcher(model.named_parameters(), SPEC)
    inputs = torch.randn(4, 8, requires_grad=True)
    with sketcher.micro_batch():
        for _ in range(2):
            checkpoint(model, inputs, use_reentrant=reentrant).square().mean().backward()
    assert torch.allclose(sketcher.take().double(), expected(model, sketcher), atol=1e-5)


class Reused(torch.nn.Module):
    """One layer in two checkpointed segments: a reentrant one runs a backward pass of its own."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.layer, self.reentrant = torch.nn.Linear(8, 8), reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            x = checkpoint(lambda y: torch.tanh(self.layer(y)), x, use_reentrant=self.reentrant)
        return x.square().mean()


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_module_in_two_checkpointed_segments_is_summed(reentrant: bool) -> None:
    model, fired = Reused(reentrant), []
    model.layer.weight.register_hook(lambda grad: fired.append(1))
    sketcher = GradientSketcher(model.named_parameters(), SPEC)
    with sketcher.micro_batch():
        model(torch.randn(4, 8, requires_grad=True)).backward()
    assert len(fired) == 1 + reentrant
    assert torch.allclose(sketcher.take().double(), expected(model, sketcher), atol=1e-5)


def test_it_is_refused_where_parts_cannot_be_added() -> None:
    for spec, partitioned, words in ((SketchSpec(k=256, seed=5, gradient="sign"), False, "sign of their sum"),
                                     (SPEC, True, "ZeRO-3")):  # fmt: skip
        model = Reused(reentrant=True)
        if partitioned:  # what ZeRO-3 leaves on a parameter
            for number, parameter in enumerate(model.parameters()):
                parameter.ds_id, parameter.ds_shape = number, parameter.shape
        sketcher = GradientSketcher(model.named_parameters(), spec)
        with pytest.raises(SketchError, match=words) as caught, sketcher.micro_batch():
            model(torch.randn(4, 8, requires_grad=True)).backward()
        assert "use_reentrant=False" in str(caught.value) and "layer" in str(caught.value)


def test_signs_are_sketched_whatever_the_loss_is_scaled_by(model: Tied) -> None:
    sketcher = GradientSketcher(model.named_parameters(), SketchSpec(k=256, seed=5, gradient="sign"))
    for factor, scale in ((1.0, 1.0), (64.0, 2.0)):
        model.zero_grad()
        with sketcher.micro_batch(scale):
            (factor * loss_of(model)).backward()
        taken = sketcher.take().double()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad = parameter.grad.sign()
        assert torch.equal(taken, expected(model, sketcher))
    with sketcher.micro_batch():
        (float("inf") * loss_of(model)).backward()
    assert not torch.isfinite(sketcher.take()).all()  # torch.sign would have made numbers of it


def test_gradients_are_divided_by_denominators_of_wrapped_names(model: Tied) -> None:
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    denominators = {name: torch.rand_like(each) + 0.1 for name, each in trained.items()}
    denominators["embed.weight"][7] = torch.inf  # a token without a second moment counts nothing
    sketcher = GradientSketcher(
        model.named_parameters(),
        SketchSpec(k=256, seed=5, gradient="adam"),
        denominators={f"module.{name}": each for name, each in denominators.items()},
    )
    with sketcher.micro_batch(scale=0.25):
        (4 * loss_of(model)).backward()
    taken = sketcher.take().double()
    for name, parameter in trained.items():
        parameter.grad = parameter.grad / 4 / denominators[name]
    assert float(model.embed.weight.grad[7].abs().max()) == 0
    assert torch.allclose(taken, expected(model, sketcher), atol=1e-4)
    with sketcher.micro_batch():
        (float("inf") * loss_of(model)).backward()
    assert not torch.isfinite(sketcher.take()).all()


def test_preconditioned_gradients_without_fitting_denominators_are_refused(model: Tied) -> None:
    adam = SketchSpec(k=256, seed=5, gradient="adam")
    with pytest.raises(SketchError, match=r"sketch\.mode=partition"):
        GradientSketcher(model.named_parameters(), adam)
    whole = {name: torch.ones_like(each) for name, each in model.named_parameters()}
    with pytest.raises(SketchError, match="kind adam"):
        GradientSketcher(model.named_parameters(), SPEC, denominators=whole)
    for broken in ({**whole, "norm.bias": torch.ones(12)}, {n: t for n, t in whole.items() if n != "norm.bias"}):
        with pytest.raises(SketchError, match="denominators of 1 parameters") as caught:
            GradientSketcher(model.named_parameters(), adam, denominators=broken)
        assert caught.value.where == {"parameter": "norm.bias"} and caught.value.expected == (24,)


def test_hooks_leave_gradients_and_later_backwards_alone(model: Tied, sketcher: GradientSketcher) -> None:
    with sketcher.micro_batch():
        loss_of(model).backward()
    hooked = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    first = sketcher.take()
    sketcher.close()
    model.zero_grad()
    loss_of(model).backward()
    assert all(torch.equal(hooked[name], p.grad) for name, p in model.named_parameters() if p.grad is not None)
    assert float(first.abs().sum()) > 0


def test_nothing_is_sketched_outside_a_block_or_after_close(model: Tied, sketcher: GradientSketcher) -> None:
    loss_of(model).backward()
    with pytest.raises(SketchError, match="no sketch"):
        sketcher.take()
    with sketcher.micro_batch():
        loss_of(model).backward()
    loss_of(model, 1).backward()
    once = sketcher.take()
    with pytest.raises(SketchError, match="no sketch"):
        sketcher.take()
    model.zero_grad()
    loss_of(model).backward()
    assert torch.allclose(once.double(), expected(model, sketcher), atol=1e-5)
    sketcher.close()
    with sketcher.micro_batch():
        loss_of(model).backward()
    with pytest.raises(SketchError, match="no sketch"):
        sketcher.take()


def test_an_exception_drops_the_sketch(model: Tied, sketcher: GradientSketcher) -> None:
    with pytest.raises(RuntimeError), sketcher.micro_batch():
        loss_of(model).backward()
        raise RuntimeError
    with pytest.raises(SketchError, match="no sketch"):
        sketcher.take()
    with pytest.raises(SketchError, match="nested"), sketcher.micro_batch(), sketcher.micro_batch():
        pass


def test_sketch_ignores_wrapper_names_and_dtype_of_bf16(model: Tied) -> None:
    wrapped = torch.nn.ModuleDict({"module": model})
    first, second = (GradientSketcher(m.named_parameters(), SPEC) for m in (model, wrapped))
    with first.micro_batch(), second.micro_batch():
        loss_of(model).backward()
    assert torch.equal(first.take(), second.take())
    model.bfloat16()
    model.zero_grad()
    low = GradientSketcher(model.named_parameters(), SPEC)
    with low.micro_batch():
        loss_of(model).backward()
    taken = low.take()
    assert taken.dtype == torch.float32
    assert torch.allclose(taken.double(), expected(model, low), atol=1e-5)


def test_models_that_cannot_be_sketched_are_refused() -> None:
    weight = torch.nn.Parameter(torch.randn(3))
    other = torch.nn.Parameter(torch.randn(3))
    with pytest.raises(SketchError, match="trainable"):
        GradientSketcher([("a", torch.nn.Parameter(weight.data, requires_grad=False))], SPEC)
    with pytest.raises(SketchError, match="same name"):
        GradientSketcher([("q.lora_A.weight", weight), ("q.lora_A.default.weight", other)], SPEC)


def test_a_gradient_that_is_only_a_slice_is_refused() -> None:
    weight = torch.nn.Parameter(torch.randn(3))
    weight.ds_shape = torch.Size([4, 6])  # what ZeRO-3 leaves on a partitioned parameter
    sketcher = GradientSketcher([("a", weight)], SPEC)
    assert sketcher.shapes == {"a": (4, 6)}
    with pytest.raises(SketchError, match="whole parameter"), sketcher.micro_batch():
        weight.square().sum().backward()


@pytest.mark.parametrize(
    ("name", "kind", "layer_kind"),
    [
        ("base_model.model.layers.3.q.lora_A.default.weight", "lora_A", "layers.3.lora_A"),
        ("language_model.model.layers.11.mlp.up.lora_B.weight", "lora_B", "language_model.model.layers.11.lora_B"),
        ("multi_modal_projector.modules_to_save.default.linear.weight", "projector", "projector"),
        ("audio_tower.layers.0.self_attn_layer_norm.bias", "norm", "audio_tower.layers.0.norm"),
        ("model.layers.2.input_layernorm.weight", "norm", "model.layers.2.norm"),
        ("transformer.h.4.ln_1.weight", "norm", "transformer.h.4.norm"),
        ("model.embed_tokens.weight", "embed", "embed"),
        ("lm_head.weight", "embed", "embed"),
        ("model.layers.2.mlp.down_proj.weight", "other", "model.layers.2.other"),
    ],
)
def test_parameter_groups(name: str, kind: str, layer_kind: str) -> None:
    assert default_group_of("all")(name) == "all"
    assert default_group_of("kind")(name) == kind
    assert default_group_of("layer_kind")(name) == layer_kind


def test_unknown_grouping_is_refused() -> None:
    with pytest.raises(ConfigError, match="grouping"):
        default_group_of("layers")  # type: ignore[arg-type]

"""Hooks that sketch every parameter's gradient while backward runs.

A tensor hook on a parameter runs before DeepSpeed's reducer and sees this rank's own gradient of this micro-batch, in
the parameter's full shape even under ZeRO-3. The hooks return None (the gradient is untouched), call no collective and
do nothing outside `micro_batch()`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

from pipeline.errors import ConfigError, SketchError
from pipeline.sketch.projector import add_sketch
from pipeline.sketch.spec import SketchSpec, canonical_name

GroupBy = Literal["all", "kind", "layer_kind"]

# First match wins; matched against single dot-separated parts of the canonical name.
_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("lora_A", re.compile(r"lora_(embedding_)?A")),
    ("lora_B", re.compile(r"lora_(embedding_)?B")),
    ("projector", re.compile(r".*(projector|aligner|adaptor|adapter|q_?former).*|speech_llama_proj", re.IGNORECASE)),
    ("norm", re.compile(r".*norm\d*|ln_\w+", re.IGNORECASE)),
    ("embed", re.compile(r".*embed.*|wte|wpe|lm_head", re.IGNORECASE)),
)


def default_group_of(group_by: GroupBy = "kind") -> Callable[[str], str]:
    """A function from parameter name to parameter-group name.

    `all`: one group. `kind`: lora_A, lora_B, projector, norm, embed (with the output head), other. `layer_kind`: the
    same kinds for each numbered layer apart (`language_model.layers.3.lora_A`), parameters outside numbered layers by
    kind alone.

    Raises:
        ConfigError: another `group_by`.
    """
    if group_by not in get_args(GroupBy):
        raise ConfigError("unknown grouping of parameters", got=group_by, expected=", ".join(get_args(GroupBy)))

    def group_of(name: str) -> str:
        canonical = canonical_name(name)
        if group_by == "all":
            return "all"
        kind = parameter_kind(canonical)
        layer = re.match(r"(.*?\.)?\d+(?=\.)", canonical) if group_by == "layer_kind" else None
        return f"{layer.group()}.{kind}" if layer else kind

    return group_of


def parameter_kind(canonical: str) -> str:
    """lora_A, lora_B, projector, norm, embed or other, by the parts of a canonical name."""
    parts = canonical.split(".")
    return next((kind for kind, pattern in _KINDS if any(pattern.fullmatch(part) for part in parts)), "other")


class GradientSketcher:
    """Sketches the gradients of all trainable parameters, micro-batch by micro-batch.

        sketcher = GradientSketcher(model.named_parameters(), spec)
        with sketcher.micro_batch(scale=accumulation_steps):
            engine.backward(loss)
        window.add(dataset, sketcher.take(), tokens)

    Register on the model that trains, before or after `deepspeed.initialize`. A parameter that is frozen at
    registration is skipped; a shared (tied) parameter is hooked once, under its first name, and everything that its
    hook sees in one backward is added up.

    Raises:
        SketchError: no parameter is trainable, or two of them have one canonical name.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
        spec: SketchSpec,
        group_of: Callable[[str], str] | None = None,
    ) -> None:
        group_of = group_of or default_group_of()
        trainable: dict[str, torch.nn.Parameter] = {}
        hooked: set[int] = set()
        for name, parameter in named_parameters:
            if not parameter.requires_grad or id(parameter) in hooked:
                continue
            canonical = canonical_name(name)
            if canonical in trainable:
                raise SketchError(
                    "two parameters have the same name once wrappers are stripped", where={"name": name}, got=canonical
                )
            trainable[canonical] = parameter
            hooked.add(id(parameter))
        if not trainable:
            raise SketchError("no parameter is trainable, so there is no gradient to sketch")
        self.spec = spec
        self.shapes = {name: _full_shape(parameter) for name, parameter in trainable.items()}
        group_names = {name: group_of(name) for name in trainable}
        self.groups: list[str] = sorted(set(group_names.values()))
        self._active = False
        self._buffer: torch.Tensor | None = None
        self._ready: torch.Tensor | None = None
        self._handles = [
            parameter.register_hook(self._hook(name, self.groups.index(group_names[name])))
            for name, parameter in trainable.items()
        ]

    def _hook(self, name: str, group: int) -> Callable[[torch.Tensor], None]:
        seed_p = self.spec.seed_of(name)
        numel = torch.Size(self.shapes[name]).numel()

        def hook(grad: torch.Tensor) -> None:
            if not self._active:
                return
            if grad.numel() != numel:
                raise SketchError(
                    "a gradient has another size than its whole parameter, so its elements cannot be numbered",
                    where={"parameter": name},
                    got=tuple(grad.shape),
                    expected=self.shapes[name],
                    hint="tensor-parallel slices are not supported by the hooks; use sketch_partition with an offset",
                )
            if self._buffer is None:
                self._buffer = torch.zeros(len(self.groups), self.spec.k, dtype=torch.float32, device=grad.device)
            if self._buffer.device == grad.device:
                add_sketch(grad, seed_p, self._buffer[group])
            else:  # a model spread over devices: sketch where the gradient is, move K numbers
                piece = torch.zeros(self.spec.k, dtype=torch.float32, device=grad.device)
                add_sketch(grad, seed_p, piece)
                self._buffer[group] += piece.to(self._buffer.device)

        return hook

    @contextmanager
    def micro_batch(self, scale: float = 1.0) -> Iterator[None]:
        """Sketch the backward passes inside the block; `take` then returns their sum times `scale`.

        Args:
            scale: what undoes the engine's own scaling of the loss: the number of accumulation steps, divided by the
                loss scale under fp16.

        An exception inside the block drops the sketch.
        """
        if self._active:
            raise SketchError("micro_batch() blocks cannot be nested", hint="one block for each backward pass")
        self._buffer = self._ready = None
        self._active = True
        try:
            yield
            if self._buffer is not None:
                self._ready = self._buffer * scale
        finally:
            self._active = False
            self._buffer = None

    def take(self) -> torch.Tensor:
        """[G, K] float32: the sketch of the last `micro_batch()` block, on the gradients' device; only once.

        Raises:
            SketchError: no block has ended since the last call, or no gradient reached any parameter in it.
        """
        if self._ready is None:
            raise SketchError(
                "there is no sketch to take",
                hint="run backward inside `with sketcher.micro_batch():`, then take once; if it ran, the loss does not "
                "depend on any hooked parameter",
            )
        ready, self._ready = self._ready, None
        return ready

    def close(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _full_shape(parameter: Any) -> tuple[int, ...]:
    """The whole parameter's shape; ZeRO-3 keeps it in `ds_shape` while the tensor itself is partitioned away."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))

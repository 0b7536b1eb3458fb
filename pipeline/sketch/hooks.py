"""Hooks that sketch every parameter's gradient while backward runs.

A tensor hook on a parameter runs before DeepSpeed's reducer and sees this rank's own gradient of this micro-batch, in
the parameter's full shape even under ZeRO-3. The hooks return None (the gradient is untouched), call no collective and
do nothing outside `micro_batch()`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

from pipeline.errors import ConfigError, SketchError
from pipeline.sketch.projector import SketchRows, sketch_rows
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

    Args:
        spec: `raw`, `sign` or `adam` gradients.
        denominators: for `adam`, what each parameter's gradient is divided by, of its whole shape and by its name as
            any wrapper calls it: Adam's sqrt(second moment) + eps at one checkpoint. A hook sees whole gradients while
            ZeRO partitions second moments, so they have to be gathered, which a probe can do once.

    Raises:
        SketchError: no parameter is trainable, two of them have one canonical name, the spec is of a kind of gradient
            that hooks cannot see, or `denominators` do not fit it.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
        spec: SketchSpec,
        group_of: Callable[[str], str] | None = None,
        rows_of: Callable[[torch.Tensor], SketchRows] = sketch_rows,
        denominators: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        _require_visible(spec, denominators)
        group_of = group_of or default_group_of()
        trainable = trainable_by_name(named_parameters)
        self.spec = spec
        self.shapes = full_shapes(trainable)
        self._denominators = {} if denominators is None else _fitting(denominators, self.shapes)
        group_names = {name: group_of(name) for name in trainable}
        self.groups: list[str] = sorted(set(group_names.values()))
        self._active = False
        self._seen: set[str] = set()  # parameters whose hook has run in this block
        self._rows_of = rows_of
        self._rows: dict[torch.device, SketchRows] = {}  # more than one where a model is spread over devices
        self._ready: torch.Tensor | None = None
        self._handles = [
            parameter.register_hook(
                self._hook(name, self.groups.index(group_names[name]), is_partitioned=hasattr(parameter, "ds_id"))
            )
            for name, parameter in trainable.items()
        ]

    def _hook(self, name: str, group: int, is_partitioned: bool) -> Callable[[torch.Tensor], None]:
        seed_p = self.spec.seed_of(name)
        numel = torch.Size(self.shapes[name]).numel()
        signs = self.spec.gradient == "sign"
        denominator = self._denominators.get(name)

        def hook(grad: torch.Tensor) -> None:
            """Sketch one parameter's gradient (any shape) of the open block; SketchError where it is not whole."""
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
            if name in self._seen and (signs or is_partitioned):
                raise _twice(name, signs)
            self._seen.add(name)
            if signs:
                grad = signs_of(grad)
            elif denominator is not None:
                grad = grad / denominator.view_as(grad)
            if grad.device not in self._rows:
                zeros = torch.zeros(len(self.groups), self.spec.k, dtype=torch.float32, device=grad.device)
                self._rows[grad.device] = self._rows_of(zeros)
            self._rows[grad.device].add(grad, seed_p, group)

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
        self._rows, self._ready = {}, None
        self._seen.clear()
        self._active = True
        try:
            yield
            if self._rows:
                first, *others = [self._rows[device].result() for device in sorted(self._rows, key=str)]
                whole = sum((each.to(first.device) for each in others), first)
                self._ready = whole if self.spec.gradient == "sign" else whole * scale  # a sign has no scale
        finally:
            self._active = False
            self._rows = {}

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
        """Remove all hooks, and let go of the denominators."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._denominators = {}


def trainable_by_name(named_parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> dict[str, torch.nn.Parameter]:
    """Trainable parameters by canonical name, a shared one once, under its first name.

    Raises:
        SketchError: no parameter is trainable, or two of them have one canonical name.
    """
    trainable: dict[str, torch.nn.Parameter] = {}
    taken: set[int] = set()
    for name, parameter in named_parameters:
        if not parameter.requires_grad or id(parameter) in taken:
            continue
        canonical = canonical_name(name)
        if canonical in trainable:
            raise SketchError(
                "two parameters have the same name once wrappers are stripped", where={"name": name}, got=canonical
            )
        trainable[canonical] = parameter
        taken.add(id(parameter))
    if not trainable:
        raise SketchError("no parameter is trainable, so there is no gradient to sketch")
    return trainable


def full_shapes(parameters: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The whole parameters' shapes; ZeRO-3 keeps them in `ds_shape` while the tensors are partitioned away."""
    return {name: tuple(getattr(each, "ds_shape", each.shape)) for name, each in parameters.items()}


def _require_visible(spec: SketchSpec, denominators: Mapping[str, torch.Tensor] | None) -> None:
    """SketchError unless a hook can make this kind of gradient of what it sees and is given."""
    if spec.gradient not in ("raw", "sign", "adam"):
        raise SketchError(
            "hooks cannot sketch this kind of gradient",
            got=spec.gradient,
            expected="raw, sign, adam",
        )
    if spec.gradient == "adam" and denominators is None:
        raise SketchError(
            "hooks need Adam's denominators to sketch preconditioned gradients",
            hint="the optimizer's second moments are partitioned over ranks, while a hook sees whole gradients: a "
            "probe gathers them once; in training, where they change, sketch.mode=partition has both on the same slice",
        )
    if spec.gradient != "adam" and denominators is not None:
        raise SketchError("only gradients of the kind adam are divided by anything", got=spec.gradient)


def _fitting(
    denominators: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, torch.Tensor]:
    """Denominators by canonical name; SketchError unless there is one of every parameter, of its shape."""
    found = {canonical_name(name): tensor for name, tensor in denominators.items()}
    misfits = {
        name: tuple(found[name].shape) if name in found else None
        for name, shape in shapes.items()
        if name not in found or tuple(found[name].shape) != shape
    }
    if misfits:
        name, got = next(iter(misfits.items()))
        raise SketchError(
            f"the denominators of {len(misfits)} parameters are missing or of another shape",
            where={"parameter": name},
            got=got,
            expected=shapes[name],
        )
    return found


def signs_of(grad: torch.Tensor) -> torch.Tensor:
    """-1, 0 or 1 for each element; NaN where the gradient is not finite (`torch.sign` gives 0 and 1 there)."""
    return torch.where(torch.isfinite(grad), grad.sign(), torch.nan)


def _twice(name: str, signs: bool) -> SketchError:
    why = "signs of parts are not the sign of their sum" if signs else "ZeRO-3 reduces a gradient once per backward"
    return SketchError(
        f"a parameter's gradient came twice in one backward pass: {why}",
        where={"parameter": name},
        hint="a module that is used in two reentrant checkpoint segments does this: checkpoint with "
        "use_reentrant=False; or there were two backward passes in one micro_batch() block",
    )

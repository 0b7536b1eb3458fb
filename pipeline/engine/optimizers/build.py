"""From a recipe's optimizer to the object that DeepSpeed steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from pipeline.config.training import OptimizerConfig
from pipeline.engine.optimizers.registry import OPTIMIZERS, Needs
from pipeline.engine.optimizers.whole import WholeParameters
from pipeline.engine.shards import Shards
from pipeline.errors import ConfigError, ModelError
from pipeline.models.load import trainable_parameters

Parameters = Mapping[str, torch.nn.Parameter]


def build_optimizer(config: OptimizerConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer of the model's trainable parameters, to be handed to `deepspeed.initialize`.

    Raises:
        ModelError: nothing to train.
        ConfigError: an option that the optimizer does not take, or a value that it refuses.
    """
    entry = OPTIMIZERS[config.name]
    arguments = entry.arguments(config)
    learning = trainable_parameters(model)
    if not learning:
        raise ModelError("nothing to train", hint="a part of the model learns with model.parts.PART=lora or =full")
    make = _maker(config, model, arguments)
    try:
        if entry.needs is Needs.WHOLE:
            with torch.device("meta"):  # tries the values, without memory
                make({name: torch.nn.Parameter(torch.empty(p.shape)) for name, p in learning.items()})
            return WholeParameters(list(learning.values()), config.lr, make)
        optimizer = make(learning)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{config.name} refuses its settings: {error}", where={"key": "train.optimizer"}, got=dict(config.options)
        ) from None
    if entry.evaluates_average:
        optimizer.train()  # type: ignore[attr-defined]
        optimizer.state.clear()  # of entries for the model's own parameters, which DeepSpeed takes out of its groups
    return optimizer


def attach_optimizer(config: OptimizerConfig, engine: Any) -> None:
    """Tell the optimizer where its slices lie, now that DeepSpeed has made them.

    Raises:
        ConfigError: DeepSpeed cut the slices into more pieces than this optimizer can work on.
    """
    entry = OPTIMIZERS[config.name]
    if entry.needs is Needs.ELEMENTS and not entry.evaluates_average:
        return
    shards = Shards(engine)
    optimizer = engine.basic_optimizer
    # schedule_free counts its steps in its groups, and whole parameters are all needed at once.
    if len(shards.flats) != len(optimizer.param_groups):
        raise ConfigError(
            f"DeepSpeed steps {config.name} several times for each group of parameters",
            where={"key": "zero_optimization.sub_group_size"},
            got=f"{len(shards.flats)} pieces",
            expected=f"{len(optimizer.param_groups)}",
            hint="raise zero_optimization.sub_group_size above the number of trainable parameters of one rank",
        )
    if isinstance(optimizer, WholeParameters):
        optimizer.attach(shards)


def parameter_groups(parameters: Parameters, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay, vectors without; an empty group is left out, because DeepSpeed mishandles it."""
    groups = [
        {"params": [p for p in parameters.values() if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _maker(
    config: OptimizerConfig, model: torch.nn.Module, arguments: dict[str, Any]
) -> Callable[[Parameters], torch.optim.Optimizer]:
    """A function from parameters by name to their optimizer."""
    kind, entry = OPTIMIZERS[config.name].load(), OPTIMIZERS[config.name]
    if config.name == "adam_mini":
        head_sizes = _elements_per_head(model)
        return lambda parameters: _adam_mini(kind, parameters, head_sizes, config.weight_decay, arguments)
    if config.name == "sophia":
        from pipeline.engine.optimizers.sophia import SophiaOnSlices

        kind = SophiaOnSlices
    if entry.one_group:
        return lambda parameters: kind(list(parameters.values()), **arguments)
    if config.name != "adamw" and entry.needs is Needs.ELEMENTS:
        kind = _shown_groups_only(kind)
    return lambda parameters: kind(parameter_groups(parameters, config.weight_decay), **arguments)


def _shown_groups_only(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """`kind` that steps only groups with parameters.

    DeepSpeed shows its optimizer one group's weights after another and calls `step` each time. Optimizers that count
    steps in their groups would count once for every group in the model.
    """

    class ShownGroupsOnly(kind):  # type: ignore[valid-type, misc]
        param_groups: list[dict[str, Any]]

        def step(self, closure: None = None) -> None:
            groups = self.param_groups
            self.param_groups = [group for group in groups if group["params"]]
            try:
                super().step()
            finally:
                self.param_groups = groups

    return ShownGroupsOnly


class _Named:
    """What Adam-mini asks of a model."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        yield from self._parameters.items()


def _elements_per_head(model: torch.nn.Module) -> dict[str, int]:
    """Elements of one attention head's rows, for each query and key projection's weight."""
    found = {}
    for name, module in model.named_modules():
        for projection in ("q_proj", "k_proj"):
            weight = getattr(getattr(module, projection, None), "weight", None)
            if weight is not None and hasattr(module, "head_dim"):
                found[f"{name}.{projection}.weight"] = int(module.head_dim) * weight.shape[1]
    return found


def _adam_mini(
    kind: Any, parameters: Parameters, head_sizes: dict[str, int], weight_decay: float, arguments: dict[str, Any]
) -> torch.optim.Optimizer:
    """One second moment per head of query and key projections, per element of embeddings, per tensor of the rest."""
    optimizer: torch.optim.Optimizer = kind(_Named(parameters), weight_decay=weight_decay, **arguments)
    for group in optimizer.param_groups:
        group["weight_decay"] = weight_decay if parameters[group["name"]].ndim >= 2 else 0.0
        if "parameter_per_head" in group:
            # Its own number is made for one width and one number of heads in the whole model.
            group["parameter_per_head"] = head_sizes.get(group["name"], parameters[group["name"]].numel())
    return optimizer

"""What each optimizer is, what its maths needs, and which options it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from pipeline.config.training import OptimizerConfig
from pipeline.errors import ConfigError, did_you_mean

Groups = list[dict[str, Any]]


class Needs(Enum):
    """What an update of one element depends on."""

    ELEMENTS = "that element's own gradients: right on any slice"
    WHOLE = "other elements too: of its row, its matrix, or all: needs whole parameters"


@dataclass(frozen=True)
class OptimizerEntry:
    """One optimizer.

    Attributes:
        load: imports and returns its class; some libraries take seconds to import.
        needs: see `Needs`.
        owned: constructor arguments that are no options, because something else here decides them.
        presets: arguments that differ from the constructor's defaults.
        evaluates_average: it has train and eval modes; evaluation needs the weights of the latter.
        one_group: it must see all parameters in one group, so it knows no matrices without weight decay.
    """

    load: Callable[[], type[torch.optim.Optimizer]]
    needs: Needs
    owned: tuple[str, ...] = ()
    presets: tuple[tuple[str, Any], ...] = ()
    evaluates_average: bool = False
    one_group: bool = False

    def arguments(self, config: OptimizerConfig) -> dict[str, Any]:
        """Constructor arguments beside the parameters.

        Raises:
            ConfigError: an option that the constructor does not take, or that belongs to the recipe.
        """
        keys = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
        arguments = {key: value for key, value in keys.items() if value is not None} | dict(self.presets)
        known = {
            name
            for name, parameter in inspect.signature(self.load()).parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        } - {"params", "model", "lr", "betas", "weight_decay", *self.owned, *({"eps"} if config.eps else set())}
        for option, value in config.options.items():
            if option not in known:
                raise ConfigError(
                    f"{config.name} takes no such option",
                    where={"key": f"train.optimizer.options.{option}"},
                    expected=", ".join(sorted(known)),
                    hint=did_you_mean(option, known),
                )
            arguments[option] = tuple(value) if isinstance(value, list) else value
        return arguments


def _adamw() -> type[torch.optim.Optimizer]:
    return torch.optim.AdamW


def _lion() -> type[torch.optim.Optimizer]:
    from pytorch_optimizer import Lion

    return Lion


def _adafactor() -> type[torch.optim.Optimizer]:
    from transformers.optimization import Adafactor

    return Adafactor


def _sophia() -> type[torch.optim.Optimizer]:
    from pytorch_optimizer import SophiaH

    return SophiaH


def _lamb() -> type[torch.optim.Optimizer]:
    from pytorch_optimizer import Lamb

    return Lamb


def _adam_mini() -> type[torch.optim.Optimizer]:
    from pytorch_optimizer import AdamMini

    return AdamMini


def _schedule_free() -> type[torch.optim.Optimizer]:
    from schedulefree import AdamWScheduleFree

    return AdamWScheduleFree


def _dog() -> type[torch.optim.Optimizer]:
    from dog import DoG

    return DoG


OPTIMIZERS: dict[str, OptimizerEntry] = {
    "adamw": OptimizerEntry(_adamw, Needs.ELEMENTS, owned=("capturable", "differentiable")),
    "lion": OptimizerEntry(_lion, Needs.ELEMENTS),
    "sophia": OptimizerEntry(_sophia, Needs.ELEMENTS, owned=("num_samples", "hessian_distribution")),
    "schedule_free": OptimizerEntry(_schedule_free, Needs.ELEMENTS, owned=("warmup_steps",), evaluates_average=True),
    # The recipe's schedule sets the rate, so Adafactor's own is off.
    "adafactor": OptimizerEntry(
        _adafactor,
        Needs.WHOLE,
        owned=("relative_step", "warmup_init"),
        presets=(("relative_step", False), ("scale_parameter", False)),
    ),
    "lamb": OptimizerEntry(_lamb, Needs.WHOLE),
    "adam_mini": OptimizerEntry(
        _adam_mini, Needs.WHOLE, owned=("model_sharding", "num_embeds", "num_heads", "num_query_groups")
    ),
    "dog": OptimizerEntry(_dog, Needs.WHOLE, one_group=True),
}

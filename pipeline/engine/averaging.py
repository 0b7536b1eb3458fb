"""Averaged weights for evaluation, selection, test and export, made of each rank's fp32 slices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Protocol

import torch

from pipeline.config.training import AveragingConfig, TrainConfig
from pipeline.engine.optimizers.registry import OPTIMIZERS
from pipeline.engine.redeal import Flats, Redeal
from pipeline.engine.shards import Shards


class Average(Protocol):
    """Some average of the weights so far; no part of it communicates, slices average by themselves."""

    def after_step(self, step: int) -> None: ...

    def values(self) -> Flats | None:
        """Laid out like the flat tensors; None while there is nothing to average."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def redealt(self, states: list[dict[str, Any]], redeal: Redeal) -> dict[str, Any]:
        """This rank's state out of those of another number of ranks."""
        ...


class MovingAverage:
    """An exponential moving average over steps, with decay min(`decay`, (1 + t) / (10 + t)) at update t = 1, 2, ..."""

    def __init__(self, decay: float, shards: Shards) -> None:
        self._decay, self._shards = decay, shards
        self._values: Flats | None = None
        self._updates = 0

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        if self._values is None:
            self._values = self._shards.copy()
            return
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for value, flat in zip(self._values, self._shards.flats, strict=True):
            value.lerp_(flat.detach(), 1 - decay)

    def values(self) -> Flats | None:
        return self._values

    def state_dict(self) -> dict[str, Any]:
        return {"values": self._values, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        values, self._updates = state["values"], state["updates"]
        flats = self._shards.flats
        self._values = values and [value.to(flat.device) for value, flat in zip(values, flats, strict=True)]

    def redealt(self, states: list[dict[str, Any]], redeal: Redeal) -> dict[str, Any]:
        values = [state["values"] for state in states]
        return {**states[0], "values": None if values[0] is None else redeal.flats(values)}


class MergedSnapshots:
    """A weighted mean of the weights at the last few snapshots, which are kept in CPU memory."""

    def __init__(self, config: AveragingConfig, every: int, last_step: int, shards: Shards) -> None:
        self._config, self._every, self._last_step, self._shards = config, every, last_step, shards
        self._snapshots: list[Flats] = []

    def after_step(self, step: int) -> None:
        if step % self._every == 0 or step == self._last_step:
            self._snapshots.append([value.cpu() for value in self._shards.copy()])
            self._snapshots = self._snapshots[-self._config.last :]

    def values(self) -> Flats | None:
        return merged(self._snapshots, self._config)

    def state_dict(self) -> dict[str, Any]:
        return {"snapshots": self._snapshots}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._snapshots = state["snapshots"]

    def redealt(self, states: list[dict[str, Any]], redeal: Redeal) -> dict[str, Any]:
        each = zip(*(state["snapshots"] for state in states), strict=True)
        return {"snapshots": [redeal.flats(values) for values in each]}


class ScheduleFreeAverage:
    """The weights that a schedule-free optimizer means to be evaluated; its own `eval()` computes them."""

    def __init__(self, optimizer: Any, shards: Shards) -> None:
        self._optimizer, self._shards = optimizer, shards

    def after_step(self, step: int) -> None:
        return None

    def values(self) -> Flats | None:
        """This rank's flat slices of the averaged weights; the trained ones are in place again, to the bit."""
        trained = self._shards.copy()
        with self._shards.in_groups(self._optimizer):
            self._optimizer.eval()
            averaged = self._shards.copy()
            self._optimizer.train()
        for flat, value in zip(self._shards.flats, trained, strict=True):
            flat.data.copy_(value)  # train() comes back to them but for rounding
        return averaged

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        return None

    def redealt(self, states: list[dict[str, Any]], redeal: Redeal) -> dict[str, Any]:
        return {}


def merge_weights(kind: str, count: int, decay: float) -> list[float]:
    """Weights of `count` snapshots, oldest first; they sum to 1.

    WSM (arXiv 2507.17634): merging snapshots 0..k equals training on from the first with each later update scaled by
    w_1 >= ... >= w_k, when snapshot j weighs w_j - w_(j+1), the first 1 - w_1 and the last w_k. The decay w_i is a
    function of i / (k + 1); a linear one gives equal weights.
    """
    if kind == "ema":
        raw = [decay ** (count - 1 - index) for index in range(count)]
        return [value / sum(raw) for value in raw]
    shapes = {
        "uniform": lambda done: 1 - done,
        "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
        "one_minus_sqrt": lambda done: 1 - math.sqrt(done),
    }
    scales = [shapes[kind](index / count) for index in range(count + 1)]  # w_0 = 1 ... w_(k+1) = 0
    return [before - after for before, after in pairwise(scales)]


def merged(snapshots: list[Flats], config: AveragingConfig) -> Flats | None:
    """The weighted mean of `snapshots`, oldest first; None where there are none."""
    if not snapshots:
        return None
    weights = merge_weights(config.weights, len(snapshots), config.decay)
    return [
        torch.stack([weight * flat for weight, flat in zip(weights, each, strict=True)]).sum(0)
        for each in zip(*snapshots, strict=True)
    ]


def average_of(train: TrainConfig) -> str:
    """What is judged: `trained`, or the average that a recipe asks for, by its name there."""
    if OPTIMIZERS[train.optimizer.name].evaluates_average:
        return train.optimizer.name
    return "trained" if train.averaging.kind == "none" else train.averaging.kind


class JudgedWeights:
    """Puts the averaged weights into the model for as long as it is judged, or for good at the end."""

    def __init__(self, shards: Shards, average: Average | None) -> None:
        self._shards, self.average = shards, average

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Every rank enters and leaves it, between two steps; leaves the trained weights to the bit."""
        values = self.average.values() if self.average else None
        if values is None:
            yield
            return
        trained = self._shards.copy()
        self._shards.write(values)
        try:
            yield
        finally:
            self._shards.write(trained)

    def copy(self) -> Flats:
        """This rank's slices of the weights that are judged now."""
        values = self.average.values() if self.average else None
        return self._shards.copy() if values is None else [value.clone() for value in values]

    def keep(self, values: Flats | None = None) -> None:
        """End the run with `values` in the model, or with the average as it is now."""
        values = self.copy() if values is None else values
        self._shards.write(values)


def build_average(train: TrainConfig, engine: Any, shards: Shards) -> Average | None:
    """The average that a recipe asks for, or None."""
    averaging = train.averaging
    if OPTIMIZERS[train.optimizer.name].evaluates_average:
        return ScheduleFreeAverage(engine.basic_optimizer, shards)
    if averaging.kind == "ema":
        return MovingAverage(averaging.decay, shards)
    if averaging.kind == "merge":
        return MergedSnapshots(averaging, averaging.every or train.checkpoint_every, train.max_steps, shards)
    return None

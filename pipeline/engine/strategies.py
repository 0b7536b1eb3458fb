"""What a recipe asks of training beside forward, backward and the optimizer: each part at its place in a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pipeline.config import Recipe
from pipeline.config.training import SCORES, KeepBestConfig
from pipeline.dist import Comm
from pipeline.engine.averaging import Flats, JudgedWeights, build_average
from pipeline.engine.gradients import AutoClip, GradientEarlyStopping
from pipeline.engine.redeal import Redeal
from pipeline.engine.setup import device_of
from pipeline.engine.shards import Shards
from pipeline.errors import ConfigError, did_you_mean
from pipeline.models.teacher import TeacherForcing
from pipeline.types import MicroBatch


class _Watcher(Protocol):
    def reduced(self) -> dict[str, float]: ...

    def after_step(self) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def redealt(self, states: list[dict[str, Any]], redeal: Redeal) -> dict[str, Any]: ...


class Strategies:
    """The parts of one run. A recipe that asks for none costs nothing, under any ZeRO stage."""

    def __init__(self, recipe: Recipe, engine: Any, comm: Comm) -> None:
        train = recipe.train
        self._hessian: Any = None
        self._watchers: dict[str, _Watcher] = {}
        self._judged: JudgedWeights | None = None
        if engine.zero_optimization_stage() != 3:  # `render_deepspeed` refuses what would need it
            return
        shards = Shards(engine)
        self._judged = JudgedWeights(shards, build_average(train, engine, shards))
        if train.optimizer.name == "sophia":
            from pipeline.engine.optimizers.sophia import HessianEstimate

            teacher = TeacherForcing(engine, device_of(engine), train.speed)
            self._hessian = HessianEstimate(engine, teacher, engine.basic_optimizer, shards, comm, train.seed)
        if train.grades is not None:  # before clipping, whose norm is that of what is applied
            self._watchers["grades"] = GradientEarlyStopping(train.grades, train.max_steps, engine, shards, comm)
        clip = train.optimizer.autoclip
        if clip is not None:
            self._watchers["autoclip"] = AutoClip(clip, train.optimizer.clip_norm, engine, shards, comm)

    def before_step(self, step: int, batches: list[MicroBatch]) -> None:
        """Before the first micro-batch of `step`."""
        if self._hessian:
            self._hessian.before_step(step, batches)

    def reduced(self) -> dict[str, float]:
        """All gradients of the step are reduced and not yet applied; returns numbers for the log."""
        return {key: value for part in self._watchers.values() for key, value in part.reduced().items()}

    def after_step(self, step: int) -> None:
        """The weights of `step` are there."""
        for part in self._watchers.values():
            part.after_step()
        if self._judged and self._judged.average:
            self._judged.average.after_step(step)

    @contextmanager
    def judged_weights(self) -> Iterator[None]:
        """The weights that evaluation is of, for as long as it lasts."""
        if self._judged is None:
            yield
            return
        with self._judged.in_place():
            yield

    def copy_judged(self) -> Flats:
        """This rank's slices of the weights that an evaluation now would be of."""
        return self._judged.copy() if self._judged else []

    def keep_judged(self, values: Flats | None) -> None:
        """End training with these weights in the model; None: with those that an evaluation now would be of."""
        if self._judged and (values is not None or self._judged.average):
            self._judged.keep(values)

    def state_dict(self) -> dict[str, Any]:
        """This rank's state."""
        state = {name: part.state_dict() for name, part in self._watchers.items()}
        if self._judged and self._judged.average:
            state["average"] = self._judged.average.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._watchers.items():
            part.load_state_dict(state[name])
        if self._judged and self._judged.average:
            self._judged.average.load_state_dict(state["average"])

    def redealt(self, states: list[dict[str, Any]], redeal: Redeal) -> dict[str, Any]:
        """This rank's state out of those of another number of ranks."""
        parts: dict[str, Any] = dict(self._watchers)
        if self._judged and self._judged.average:
            parts["average"] = self._judged.average
        return {name: part.redealt([state[name] for state in states], redeal) for name, part in parts.items()}


class BestSoFar:
    """Remembers the step whose evaluation was the best by one metric.

    Raises:
        ConfigError: the metric is of a dataset that is not there.
    """

    def __init__(self, config: KeepBestConfig, datasets: list[str]) -> None:
        self._config = config
        known = [f"val/{name}/{score}" for name in ("macro", *datasets) for score in SCORES]
        if config.metric not in known:
            raise ConfigError(
                "there is no such metric",
                where={"key": "train.keep_best.metric"},
                got=config.metric,
                hint=did_you_mean(config.metric, known, f"known: {', '.join(known)}"),
            )
        self.step: int | None = None
        self.value = math.nan

    def improves(self, step: int, metrics: dict[str, float]) -> bool:
        """Take an evaluation into account; True when it is the best so far. The untrained model does not count."""
        value = metrics.get(self._config.metric, math.nan)
        if step == 0 or math.isnan(value):
            return False
        better = value < self.value if self._config.lower_is_better else value > self.value
        if self.step is not None and not better:
            return False
        self.step, self.value = step, value
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "value": self.value if self.step is not None else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.value = math.nan if state["value"] is None else state["value"]

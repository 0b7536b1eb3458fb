"""What looks at the reduced gradient before the optimizer uses it: clipping that adapts, and matrices that stop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from pipeline.config.training import AutoClipConfig, GradesConfig
from pipeline.dist import Comm
from pipeline.engine.redeal import Redeal
from pipeline.engine.shards import Shards, Slice


class AutoClip:
    """Clips each step at a percentile of the gradient norms so far, this step's included.

    Seetharaman et al. 2020, "AutoClip: Adaptive Gradient Clipping for Source Separation Networks". The norm is that of
    the whole gradient: squares are summed over every rank's slices. DeepSpeed does the clipping; its limit is set anew
    before each step, and never above the recipe's `clip_norm`.
    """

    def __init__(
        self, config: AutoClipConfig, clip_norm: float | None, engine: Any, shards: Shards, comm: Comm
    ) -> None:
        self._config, self._clip_norm = config, clip_norm
        self._engine, self._shards, self._comm = engine, shards, comm
        self._norms: list[float] = []

    def reduced(self) -> dict[str, float]:
        """Set the limit of the step to come; returns it for the log. Every rank calls it."""
        squares = sum((gradient.double().square().sum().cpu() for _, gradient in self._shards.gradients()))
        norm = float(self._comm.all_reduce_sum(torch.as_tensor(squares, dtype=torch.float64))) ** 0.5
        if math.isfinite(norm):  # fp16 skips a step that overflows
            self._norms.append(norm)
        if self._config.window is not None:
            self._norms = self._norms[-self._config.window :]
        limit = float(np.percentile(self._norms, self._config.percentile)) if self._norms else math.inf
        limit = min(limit, self._clip_norm or math.inf)
        if not math.isfinite(limit):  # nothing seen but overflows
            self._engine.optimizer.clip_grad = 0.0
            return {}
        self._engine.optimizer.clip_grad = limit
        return {"clip_limit": limit}

    def after_step(self) -> None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"norms": list(self._norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._norms = list(state["norms"])

    def redealt(self, states: list[dict[str, Any]], redeal: Redeal) -> dict[str, Any]:
        return states[0]


class GradientEarlyStopping:
    """Stops updating matrices whose gradients no longer change; see `GradesConfig` for the rule.

    A stopped matrix stays trainable for torch and DeepSpeed: its gradient is set to zero before the step, and its
    weights are put back after it, where decay and momentum would still have moved them. Taking `requires_grad` away in
    mid-run would change what ZeRO-3 reduces and leave stale gradients in its buffers. So stopping saves no compute; it
    keeps finished matrices from being moved. The decision is made from sums over ranks, so all ranks take it alike.
    """

    def __init__(self, config: GradesConfig, max_steps: int, engine: Any, shards: Shards, comm: Comm) -> None:
        self._config, self._shards, self._comm = config, shards, comm
        self._grace_steps = config.grace_share * max_steps
        self._matrices = [piece for piece in shards.slices if len(piece.shape) >= 2]
        count = len(self._matrices)
        self._last = [torch.zeros(piece.filled, device=shards.device) for piece in self._matrices]
        self._smooth = torch.zeros(count, dtype=torch.float64)  # mean L1 change over about `window` steps
        self._highest = torch.zeros(count, dtype=torch.float64)
        self._stopped = torch.zeros(count, dtype=torch.bool)
        self._steps = 0
        self._armed = False  # between `reduced` and `after_step`: another trainer's steps are none of our business
        self._held: list[tuple[torch.Tensor, torch.Tensor]] = []
        engine.basic_optimizer.register_step_pre_hook(self._remember)
        engine.basic_optimizer.register_step_post_hook(self._put_back)

    def reduced(self) -> dict[str, float]:
        """Watch the gradient of the step to come and take stopped matrices out of it. Every rank calls it."""
        gradients = {piece.name: gradient for piece, gradient in self._shards.gradients()}
        change = torch.zeros(len(self._matrices), dtype=torch.float64)
        for index, piece in enumerate(self._matrices):
            gradient = gradients[piece.name]
            change[index] = (gradient - self._last[index]).abs().sum().double().cpu()
            self._last[index] = gradient.clone()
        change = self._comm.all_reduce_sum(change)
        if bool(torch.isfinite(change).all()):
            self._watch(change)
        for piece in self.stopped:
            self._shards.zero_gradient(piece)
        self._armed = True
        return {"stopped_matrices": float(self._stopped.sum())}

    def after_step(self) -> None:
        self._armed = False

    @property
    def stopped(self) -> list[Slice]:
        return [piece for piece, stop in zip(self._matrices, self._stopped, strict=True) if stop]

    def _watch(self, change: torch.Tensor) -> None:
        self._steps += 1
        if self._steps == 1:
            return  # the change from nothing is none
        keep = 1 - 1 / min(self._steps - 1, self._config.window)  # a plain mean until the window is full
        self._smooth = keep * self._smooth + (1 - keep) * change
        if self._steps > self._config.window:
            self._highest = torch.maximum(self._highest, self._smooth)
            if self._steps > self._grace_steps:
                self._stopped |= self._smooth < self._config.threshold * self._highest

    def _remember(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Before the optimizer steps one of its flat tensors."""
        if not self._armed:
            return
        shown = {id(flat) for group in optimizer.param_groups for flat in group["params"]}
        flats = self._shards.flats
        views = [piece.of(flats[piece.flat]) for piece in self.stopped if id(flats[piece.flat]) in shown]
        self._held = [(view, view.clone()) for view in views]

    def _put_back(self, *_: Any) -> None:
        """After it, before DeepSpeed makes the model's weights from it."""
        for view, value in self._held:
            view.copy_(value)
        self._held = []

    def state_dict(self) -> dict[str, Any]:
        return {
            "last": {piece.name: last for piece, last in zip(self._matrices, self._last, strict=True)},
            "smooth": self._smooth,
            "highest": self._highest,
            "stopped": self._stopped,
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._last = [state["last"][piece.name].to(self._shards.device) for piece in self._matrices]
        self._smooth, self._highest = state["smooth"], state["highest"]
        self._stopped, self._steps = state["stopped"], state["steps"]

    def redealt(self, states: list[dict[str, Any]], redeal: Redeal) -> dict[str, Any]:
        """What is of matrices is the same on every rank: their order does not depend on the number of ranks."""
        return {**states[0], "last": redeal.pieces([state["last"] for state in states])}

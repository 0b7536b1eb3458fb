"""Whole parameters for optimizers whose maths needs them, although ZeRO-3 hands an optimizer flat slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pipeline.engine.shards import Shards

MakeInner = Callable[[dict[str, torch.nn.Parameter]], torch.optim.Optimizer]


class WholeParameters(torch.optim.Optimizer):
    """Gathers weights and gradients, steps `inner` on whole parameters, and takes this rank's slices of the outcome.

    Every rank does the same step on the same numbers, so no update is sent. The price: one all-gather of weights and
    gradients per step, and all trainable weights, gradients and optimizer state in fp32 on every rank. That suits
    adapters; full fine-tuning of a large model needs an optimizer that works on slices (adamw, lion, sophia,
    schedule_free).

    It has one group with everything, so that DeepSpeed steps it once; `inner` has the groups that matter.

    Args:
        parameters: what DeepSpeed partitions, in any order.
        make_inner: the optimizer of whole fp32 parameters by name.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, make_inner: MakeInner) -> None:
        super().__init__([{"params": parameters}], {"lr": lr})
        self._make_inner = make_inner

    def attach(self, shards: Shards) -> None:
        """Learn where the slices lie; once, after `deepspeed.initialize` has made them."""
        self._shards = shards
        self._whole = {
            piece.name: torch.nn.Parameter(torch.zeros(piece.shape, dtype=torch.float32, device=shards.device))
            for piece in shards.slices
        }
        self._inner = self._make_inner(self._whole)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of everything; every rank calls it."""
        (flat,) = self.param_groups[0]["params"]
        weights, gradients = self._shards.whole(0, flat, flat.grad)
        for name, parameter in self._whole.items():
            parameter.copy_(weights[name])
            parameter.grad = gradients[name].clone()
        for group in self._inner.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        self._inner.step()
        self._shards.take_slices(0, self._whole)
        self._inner.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "inner": self._inner.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "inner"})
        self._inner.load_state_dict(state_dict["inner"])

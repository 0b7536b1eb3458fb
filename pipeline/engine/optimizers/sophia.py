"""Sophia's estimate of the Hessian's diagonal: Gauss-Newton-Bartlett (Liu et al. 2023, arXiv 2305.14342, algorithm 2).

Labels are drawn from the model's own predictions; with n of them in the mean loss and g its gradient, n g*g estimates
the diagonal of the Gauss-Newton matrix. pytorch_optimizer's SophiaH takes such an estimate from outside. (Its own,
Hutchinson's, differentiates twice, which neither ZeRO-3 nor fused attention allows.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pytorch_optimizer import SophiaH

from pipeline.dist import Comm
from pipeline.engine.shards import Shards
from pipeline.models.loss import AnswerTokens, score_answers
from pipeline.models.teacher import TeacherForcing
from pipeline.types import MicroBatch

NEVER = 2**62


class SophiaOnSlices(SophiaH):
    """SophiaH that uses the estimates put into `hessians`, by flat tensor, at its next step on that tensor."""

    def __init__(self, params: Any, *, update_period: int = 10, **options: Any) -> None:
        super().__init__(params, update_period=NEVER, **options)
        self.estimate_every = update_period
        self.hessians: dict[torch.Tensor, torch.Tensor] = {}

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step on the flat tensor that DeepSpeed shows at the moment."""
        shown = [flat for group in self.param_groups for flat in group["params"]]
        hessian = [self.hessians.pop(flat) for flat in shown if flat in self.hessians]
        super().step(hessian=hessian or None)


class HessianEstimate:
    """Runs the extra forward and backward passes and hands the estimate to the optimizer."""

    def __init__(
        self,
        engine: Any,
        teacher: TeacherForcing,
        optimizer: SophiaOnSlices,
        shards: Shards,
        comm: Comm,
        seed: int,
    ) -> None:
        self._engine, self._optimizer, self._shards, self._comm = engine, optimizer, shards, comm
        self._teacher = teacher
        self._seed = seed

    def before_step(self, step: int, batches: list[MicroBatch]) -> None:
        """Estimate from the step's own micro-batches, every `update_period` steps from the first one (`step` is 1) on.

        Leaves the engine as it was: no gradient is kept, no weight changed. Every rank calls it.
        """
        if (step - 1) % self._optimizer.estimate_every:
            return
        inverse_tokens = 0.0
        for index, batch in enumerate(batches):
            logits, tokens = self._teacher.logits(batch)
            loss = score_answers(logits, sampled(logits, tokens, self._generator(step, index)))
            self._engine.backward(loss.mean)
            inverse_tokens += 1 / loss.tokens
        self._hand_over(inverse_tokens, len(batches))
        self._engine.optimizer.zero_grad()  # or the step's first backward would add to these gradients

    def _hand_over(self, inverse_tokens: float, batches: int) -> None:
        """n g*g, n being what the mean of M micro-batch means is worth: M^2 / sum of 1/tokens."""
        sums = self._comm.all_reduce_sum(torch.tensor([inverse_tokens, float(batches)], dtype=torch.float64))
        count = float(sums[1] ** 2 / sums[0])
        estimates = [torch.zeros_like(flat) for flat in self._shards.flats]
        for piece, gradient in self._shards.gradients():
            piece.of(estimates[piece.flat]).copy_(gradient.square() * count)
        self._optimizer.hessians = dict(zip(self._shards.flats, estimates, strict=True))

    def _generator(self, step: int, index: int) -> torch.Generator:
        """Of the labels of one micro-batch; the number is made of the micro-batch's place in the run."""
        place = (step * 1_000_003 + index) * 1_009 + self._comm.rank
        return torch.Generator().manual_seed((self._seed * 7_919 + place) % 2**63)


def sampled(logits: torch.Tensor, tokens: AnswerTokens, generator: torch.Generator) -> AnswerTokens:
    """The same places, each with a token drawn from softmax of its `logits` [N, V]."""
    if not len(tokens):
        return tokens
    chances = logits.detach().float().softmax(-1).cpu()
    drawn = torch.multinomial(chances, 1, generator=generator)[:, 0]
    return replace(tokens, targets=drawn.to(tokens.targets.device))

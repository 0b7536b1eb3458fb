"""One forward under teacher forcing, for training and scoring alike: a micro-batch in, logits or a loss out.

The output layer of a language model is its largest matrix, and only the positions before an answer's tokens have a
loss. So the layer is given the hidden states of these positions alone. It is done by a hook on the layer itself: that
works for every model that has one, is exact, and stays within ZeRO-3's rules, because the layer is called as ever and
its weights are gathered for it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

from pipeline.config.training import SpeedConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.models.loss import AnswerLoss, AnswerTokens, StepLoss, score_answers, share_out, step_loss
from pipeline.types import MicroBatch

CHUNK_ELEMENTS = 2**26  # logits that exist at one time in chunked cross-entropy: 256 MiB in fp32

# (weight [V, H], hidden [N, H], targets [N], bias [V] or None) -> summed cross-entropy, without logits in between.
FusedLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


class TeacherForcing:
    """Runs a model, or the engine around it, over micro-batches.

    Args:
        speed: how; the values are the same up to rounding.

    Raises:
        ConfigError: liger-kernel is asked for and not there.
    """

    def __init__(self, model: Any, device: torch.device, speed: SpeedConfig | None = None) -> None:
        speed = speed or SpeedConfig()
        self._model, self._device = model, device
        self._head = output_layer(model) if speed.answer_logits else None
        self._fused = find_fused_loss(speed, device) if self._can_fuse(speed) else None
        self._is_checked = False

    def logits(self, batch: MicroBatch) -> tuple[torch.Tensor, AnswerTokens]:
        """[N, V] of the positions whose next token is an answer's, in the order of the tokens."""
        inputs, tokens = self._inputs(batch)
        tokens = tokens.to(self._device)
        return self._logits(inputs, tokens), tokens

    def score(self, batch: MicroBatch) -> AnswerLoss:
        """Loss and counts of the whole micro-batch."""
        return score_answers(*self.logits(batch))

    def loss(self, batch: MicroBatch, label_smoothing: float = 0.0) -> StepLoss:
        """The loss to train on, with each dataset's sum; on a GPU it is queued, not waited for."""
        inputs, tokens = self._inputs(batch)
        shares = share_out(tokens, batch.dataset, batch.datasets)
        tokens = tokens.to(self._device)
        if self._fused is None or label_smoothing:
            return step_loss(self._logits(inputs, tokens), tokens, shares, label_smoothing)
        sums = self._fused_sums(inputs, tokens, [share.chosen for share in shares])
        return StepLoss(sums.sum() / len(tokens), sums.detach(), shares, len(tokens))

    def _inputs(self, batch: MicroBatch) -> tuple[dict[str, torch.Tensor], AnswerTokens]:
        """The model's arguments on its device; the tokens stay where the labels are, which costs a GPU no wait."""
        tokens = AnswerTokens.of(batch.inputs["labels"])
        inputs = {
            name: tensor.to(self._device, non_blocking=True)  # a copy beside the computing, where memory is pinned
            for name, tensor in batch.inputs.items()
            if name != "labels"
        }
        return inputs, tokens

    def _logits(self, inputs: dict[str, torch.Tensor], tokens: AnswerTokens) -> torch.Tensor:
        if self._head is None:
            return self._model(**inputs).logits[tokens.rows, tokens.places]
        # Before DeepSpeed's own hooks, which see what the layer really gets.
        handle = self._head.register_forward_pre_hook(
            lambda _, args: (args[0][tokens.rows, tokens.places],), prepend=True
        )
        try:
            return self._model(**inputs).logits
        finally:
            handle.remove()

    def _fused_sums(
        self, inputs: dict[str, torch.Tensor], tokens: AnswerTokens, chosen: list[torch.Tensor | None]
    ) -> torch.Tensor:
        """[G] summed loss of each share, computed inside the output layer's call, where ZeRO-3 gathers its weights."""
        head, fused = self._head, self._fused
        assert head is not None and fused is not None
        made = []

        def losses(hidden: torch.Tensor) -> torch.Tensor:
            own, targets = hidden[tokens.rows, tokens.places], tokens.targets
            parts = [(own, targets) if each is None else (own[each], targets[each]) for each in chosen]
            made.append(torch.stack([fused(head.weight, part, aims, head.bias) for part, aims in parts]))
            return made[0]

        head.forward = losses
        try:
            got = self._model(**inputs).logits
        finally:
            del head.forward
        if not self._is_checked and not torch.equal(got.nan_to_num(), made[0].nan_to_num()):
            raise ModelError(
                "this model changes its output layer's values, so their loss cannot be computed inside that layer",
                hint="set train.speed.cross_entropy to torch",
            )
        self._is_checked = True
        return got

    def _can_fuse(self, speed: SpeedConfig) -> bool:
        """Whether the loss may be computed inside the output layer; an adapter there, or no such layer, forbids it."""
        if type(self._head) is torch.nn.Linear:
            return True
        if speed.cross_entropy in ("chunked", "liger"):
            raise ConfigError(
                "this model has no plain linear output layer to compute the loss in",
                where={"key": "train.speed.cross_entropy"},
                got=speed.cross_entropy,
                expected="torch",
            )
        return False


def output_layer(model: Any) -> Any:
    """The layer that makes logits of hidden states, by `transformers`' own account; None where a model names none."""
    module = getattr(model, "module", model)
    find = getattr(module, "get_output_embeddings", None)
    return find() if find is not None else None


def find_fused_loss(speed: SpeedConfig, device: torch.device) -> FusedLoss | None:
    """The fused loss that `speed.cross_entropy` names; None: torch's own, on logits."""
    kind = speed.cross_entropy
    if kind == "chunked":
        return chunked_cross_entropy
    has_liger = importlib.util.find_spec("liger_kernel") is not None
    if kind == "liger" and not has_liger:
        raise ConfigError(
            "liger-kernel is not installed",
            where={"key": "train.speed.cross_entropy"},
            hint="pip install liger-kernel (it needs a GPU), or take auto, torch or chunked",
        )
    if kind == "liger" or (kind == "auto" and has_liger and device.type == "cuda"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        fused: FusedLoss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
        return fused
    return None


def chunked_cross_entropy(
    weight: torch.Tensor, hidden: torch.Tensor, targets: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Summed cross-entropy of `hidden @ weight.T + bias`, some positions at a time, computed again in backward.

    Never more than CHUNK_ELEMENTS logits exist: for models whose logits of one micro-batch do not fit.
    """
    step = max(1, CHUNK_ELEMENTS // len(weight))
    parts = [
        checkpoint(_cross_entropy, weight, hidden[at : at + step], targets[at : at + step], bias, use_reentrant=False)
        for at in range(0, len(targets), step)
    ]
    return torch.stack(parts).sum()


def _cross_entropy(
    weight: torch.Tensor, hidden: torch.Tensor, targets: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    return cross_entropy(linear(hidden, weight, bias).float(), targets, reduction="sum")

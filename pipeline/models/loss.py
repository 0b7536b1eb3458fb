"""Loss and score of answer tokens under teacher forcing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from pipeline.models.encode import IGNORE


@dataclass(frozen=True)
class AnswerLoss:
    """Per-token mean loss of one micro-batch (the tensor to differentiate) and its counts."""

    mean: torch.Tensor
    tokens: int
    loss_sum: float
    correct: int
    examples: int
    exact: int


def answer_loss(logits: torch.Tensor, labels: torch.Tensor) -> AnswerLoss:
    """Next-token cross-entropy over answer tokens.

    Args:
        logits: [B, T, V] of the model.
        labels: [B, T]; IGNORE outside the answer.

    `correct` and `exact` are the paper's token-level accuracy in sums: argmax of position t-1 against token t.
    """
    targets = labels[:, 1:]
    wanted = targets != IGNORE
    picked = logits[:, :-1][wanted].float()
    losses = cross_entropy(picked, targets[wanted], reduction="sum")
    tokens = int(wanted.sum())
    hits = torch.zeros_like(wanted)
    hits[wanted] = picked.detach().argmax(-1) == targets[wanted]
    rows_right = (hits | ~wanted).all(dim=1)
    return AnswerLoss(
        mean=losses / tokens,
        tokens=tokens,
        loss_sum=float(losses.detach()),
        correct=int(hits.sum()),
        examples=len(labels),
        exact=int(rows_right.sum()),
    )

"""Loss and score of answer tokens under teacher forcing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from pipeline.models.encode import IGNORE


@dataclass(frozen=True)
class AnswerLoss:
    """Per-token mean loss of one micro-batch (the tensor to differentiate) and its counts; `loss_sum` is unsmoothed."""

    mean: torch.Tensor
    tokens: int
    loss_sum: float
    correct: int
    examples: int
    exact: int


def answer_loss(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> AnswerLoss:
    """Next-token cross-entropy over answer tokens.

    Args:
        logits: [B, T, V] of the model.
        labels: [B, T]; IGNORE outside the answer.
        label_smoothing: share of the target spread evenly over the vocabulary (Szegedy et al. 2016), in `mean` only:
            `loss_sum` stays comparable between runs.

    `correct` and `exact` are the paper's token-level accuracy in sums: argmax of position t-1 against token t.
    """
    targets = labels[:, 1:]
    wanted = targets != IGNORE
    picked = logits[:, :-1][wanted].float()
    losses = cross_entropy(picked, targets[wanted], reduction="sum")
    learnt = losses
    if label_smoothing:
        learnt = cross_entropy(picked, targets[wanted], reduction="sum", label_smoothing=label_smoothing)
    tokens = int(wanted.sum())
    hits = torch.zeros_like(wanted)
    hits[wanted] = picked.detach().argmax(-1) == targets[wanted]
    rows_right = (hits | ~wanted).all(dim=1)
    return AnswerLoss(
        mean=learnt / tokens,
        tokens=tokens,
        loss_sum=float(losses.detach()),
        correct=int(hits.sum()),
        examples=len(labels),
        exact=int(rows_right.sum()),
    )


@torch.no_grad()
def sums_by_dataset(
    logits: torch.Tensor, labels: torch.Tensor, datasets: Sequence[str]
) -> dict[str, tuple[float, int, int]]:
    """Dataset -> (loss sum, answer tokens, examples) of a micro-batch whose examples are of several datasets.

    Args:
        logits, labels: as for `answer_loss`; unsmoothed, so that the sums add up to its `loss_sum`.
        datasets: [B], each example's.
    """
    sums: dict[str, tuple[float, int, int]] = {}
    for name in dict.fromkeys(datasets):
        rows = [row for row, each in enumerate(datasets) if each == name]
        part = answer_loss(logits[rows], labels[rows])
        sums[name] = (part.loss_sum, part.tokens, part.examples)
    return sums

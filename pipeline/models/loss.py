"""Loss and score of answer tokens under teacher forcing. `N` are the answer tokens of a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from pipeline.models.encode import IGNORE


@dataclass(frozen=True)
class AnswerTokens:
    """Where the answers of a micro-batch stand: [N] each, row by row in the order of the text.

    Attributes:
        rows: the example that a token belongs to.
        places: the position before it, whose logits foretell it.
        targets: the token.
        examples: of the micro-batch, also those without an answer.
    """

    rows: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor
    examples: int

    @classmethod
    def of(cls, labels: torch.Tensor) -> AnswerTokens:
        """From labels [B, T], IGNORE outside the answers. Labels on the CPU make no GPU wait for how many there are."""
        rows, places = (labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
        return cls(rows, places, labels[rows, places + 1], len(labels))

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> AnswerTokens:
        rows, places, targets = (
            tensor.to(device, non_blocking=True) for tensor in (self.rows, self.places, self.targets)
        )
        return AnswerTokens(rows, places, targets, self.examples)

    def of_example(self, row: int) -> tuple[torch.Tensor, AnswerTokens]:
        """[n] which of the N are this example's; and they alone."""
        chosen = (self.rows == row).nonzero()[:, 0]
        return chosen, AnswerTokens(self.rows[chosen], self.places[chosen], self.targets[chosen], 1)


@dataclass(frozen=True)
class Share:
    """One dataset's part of a micro-batch: `chosen` [n] are its own of the N tokens, None where all are."""

    dataset: str
    chosen: torch.Tensor | None
    tokens: int
    examples: int


def share_out(tokens: AnswerTokens, dataset: str, datasets: Sequence[str] | None) -> list[Share]:
    """The shares of a micro-batch's dataset (`datasets` None), or of `datasets`, each example's, where it has several.

    Like `AnswerTokens.of` it is for tokens on the CPU.
    """
    if datasets is None:
        return [Share(dataset, None, len(tokens), tokens.examples)]
    shares = []
    for name in dict.fromkeys(datasets):
        rows = [row for row, each in enumerate(datasets) if each == name]
        chosen = torch.isin(tokens.rows, torch.tensor(rows)).nonzero()[:, 0]
        shares.append(Share(name, chosen, len(chosen), len(rows)))
    return shares


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
    """`score_answers` of a model's whole output: logits [B, T, V], labels [B, T] with IGNORE outside the answer."""
    tokens = AnswerTokens.of(labels)
    return score_answers(logits[tokens.rows, tokens.places], tokens, label_smoothing)


def score_answers(logits: torch.Tensor, tokens: AnswerTokens, label_smoothing: float = 0.0) -> AnswerLoss:
    """Next-token cross-entropy over answer tokens.

    Args:
        logits: [N, V] at `tokens.places`.
        label_smoothing: share of the target spread evenly over the vocabulary (Szegedy et al. 2016), in `mean` only:
            `loss_sum` stays comparable between runs.

    `correct` and `exact` are the paper's token-level accuracy in sums: argmax of position t-1 against token t.
    """
    logits = logits.float()
    loss_sum = cross_entropy(logits, tokens.targets, reduction="sum")
    hits = logits.detach().argmax(-1) == tokens.targets
    return AnswerLoss(
        mean=_to_learn_from(logits, tokens.targets, loss_sum, label_smoothing) / len(tokens),
        tokens=len(tokens),
        loss_sum=float(loss_sum.detach()),
        correct=int(hits.sum()),
        examples=tokens.examples,
        exact=tokens.examples - len(tokens.rows[~hits].unique()),
    )


@dataclass(frozen=True)
class StepLoss:
    """Per-token mean loss of one training micro-batch, to be differentiated; nothing in it has waited for a GPU.

    Attributes:
        sums: [G] unsmoothed loss of each of the shares, without a gradient.
    """

    mean: torch.Tensor
    sums: torch.Tensor
    shares: list[Share]
    tokens: int


def step_loss(
    logits: torch.Tensor, tokens: AnswerTokens, shares: list[Share], label_smoothing: float = 0.0
) -> StepLoss:
    """The loss of a training micro-batch; `logits` [N, V] at `tokens.places`, `label_smoothing` as in `answer_loss`."""
    logits = logits.float()
    whole = cross_entropy(logits, tokens.targets, reduction="sum")
    sums = [
        whole.detach()
        if share.chosen is None
        else cross_entropy(logits.detach()[share.chosen], tokens.targets[share.chosen], reduction="sum")
        for share in shares
    ]
    mean = _to_learn_from(logits, tokens.targets, whole, label_smoothing) / len(tokens)
    return StepLoss(mean, torch.stack(sums), shares, len(tokens))


def _to_learn_from(
    logits: torch.Tensor, targets: torch.Tensor, loss_sum: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    if not label_smoothing:
        return loss_sum
    return cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)

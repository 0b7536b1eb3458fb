"""Teacher-forced scoring of fixed micro-batches, in step on all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from pipeline.dist import Comm
from pipeline.eval.examples import ScoredExample
from pipeline.models.loss import answer_loss
from pipeline.types import DatasetScore, MicroBatch


def score(
    model: torch.nn.Module,
    batches: Iterable[MicroBatch],
    datasets: Sequence[str],
    comm: Comm,
    device: torch.device,
) -> dict[str, DatasetScore]:
    """Score every dataset; each example counts once, whatever the world size.

    Under ZeRO-3 a forward is a collective operation, so every rank must bring the same number of micro-batches; those
    with `counted=False` are run and not scored.

    Returns:
        Scores over all ranks, for the datasets in `datasets` (zero examples for one that has none).
    """
    sums = torch.zeros(len(datasets), 5, dtype=torch.float64)

    def add(batch: MicroBatch, logits: torch.Tensor, labels: torch.Tensor) -> None:
        loss = answer_loss(logits, labels)
        row = [loss.loss_sum, loss.tokens, loss.correct, loss.examples, loss.exact]
        sums[datasets.index(batch.dataset)] += torch.tensor(row, dtype=torch.float64)

    _run(model, batches, device, add)
    return {
        name: DatasetScore(float(row[0]), *(int(value) for value in row[1:]))
        for name, row in zip(datasets, comm.all_reduce_sum(sums), strict=True)
    }


def score_examples(
    model: torch.nn.Module, batches: Iterable[MicroBatch], comm: Comm, device: torch.device
) -> list[ScoredExample]:
    """The same, example by example: those of all ranks on all ranks, sorted by dataset and id."""
    mine: list[ScoredExample] = []

    def add(batch: MicroBatch, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Score each example of a micro-batch by itself: logits [B, T, V], labels [B, T]."""
        for row, asked in enumerate(batch.questions):
            loss = answer_loss(logits[row : row + 1], labels[row : row + 1])
            mine.append(
                ScoredExample(
                    dataset=batch.dataset,
                    id=asked.id,
                    task=asked.task,
                    question=asked.question,
                    answers=asked.answers or (asked.answer,),
                    tokens=loss.tokens,
                    correct=loss.correct,
                    loss_sum=loss.loss_sum,
                    exact=bool(loss.exact),
                )
            )

    _run(model, batches, device, add)
    return sorted((each for part in comm.gather_objects(mine) for each in part), key=lambda each: each.key)


def _run(
    model: torch.nn.Module,
    batches: Iterable[MicroBatch],
    device: torch.device,
    add: Callable[[MicroBatch, torch.Tensor, torch.Tensor], None],
) -> None:
    """One forward for each micro-batch, in evaluation mode; `add` gets the logits and labels of those that count."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in batches:
            inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
            labels = inputs.pop("labels")
            logits = model(**inputs).logits
            if batch.counted:
                add(batch, logits, labels)
    model.train(was_training)

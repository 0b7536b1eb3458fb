"""Teacher-forced scoring of fixed micro-batches, in step on all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from pipeline.dist import Comm
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
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in batches:
            inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
            labels = inputs.pop("labels")
            loss = answer_loss(model(**inputs).logits, labels)
            if batch.counted:
                row = [loss.loss_sum, loss.tokens, loss.correct, loss.examples, loss.exact]
                sums[datasets.index(batch.dataset)] += torch.tensor(row, dtype=torch.float64)
    model.train(was_training)
    sums = comm.all_reduce_sum(sums)
    return {
        name: DatasetScore(float(row[0]), *(int(value) for value in row[1:]))
        for name, row in zip(datasets, sums, strict=True)
    }

"""Teacher-forced scoring of fixed micro-batches, in step on all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from pipeline.config.training import SpeedConfig
from pipeline.dist import Comm
from pipeline.eval.examples import ScoredExample
from pipeline.models.loss import AnswerTokens, score_answers
from pipeline.models.teacher import TeacherForcing
from pipeline.types import DatasetScore, MicroBatch


def score(
    model: torch.nn.Module,
    batches: Iterable[MicroBatch],
    datasets: Sequence[str],
    comm: Comm,
    device: torch.device,
    speed: SpeedConfig | None = None,
) -> dict[str, DatasetScore]:
    """Score every dataset; each example counts once, whatever the world size.

    Under ZeRO-3 a forward is a collective operation, so every rank must bring the same number of micro-batches; those
    with `counted=False` are run and not scored. `speed` is the recipe's.

    Returns:
        Scores over all ranks, for the datasets in `datasets` (zero examples for one that has none).
    """
    sums = torch.zeros(len(datasets), 5, dtype=torch.float64)

    def add(batch: MicroBatch, logits: torch.Tensor, tokens: AnswerTokens) -> None:
        loss = score_answers(logits, tokens)
        row = [loss.loss_sum, loss.tokens, loss.correct, loss.examples, loss.exact]
        sums[datasets.index(batch.dataset)] += torch.tensor(row, dtype=torch.float64)

    _run(TeacherForcing(model, device, speed), model, batches, add)
    return {
        name: DatasetScore(float(row[0]), *(int(value) for value in row[1:]))
        for name, row in zip(datasets, comm.all_reduce_sum(sums), strict=True)
    }


def score_examples(
    model: torch.nn.Module,
    batches: Iterable[MicroBatch],
    comm: Comm,
    device: torch.device,
    speed: SpeedConfig | None = None,
) -> list[ScoredExample]:
    """The same, example by example: those of all ranks on all ranks, sorted by dataset and id."""
    mine: list[ScoredExample] = []

    def add(batch: MicroBatch, logits: torch.Tensor, tokens: AnswerTokens) -> None:
        """Score each example of a micro-batch by itself; `logits` of its answer tokens only: [tokens, V]."""
        for row, asked in enumerate(batch.questions):
            chosen, alone = tokens.of_example(row)
            loss = score_answers(logits[chosen], alone)
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

    _run(TeacherForcing(model, device, speed), model, batches, add)
    return sorted((each for part in comm.gather_objects(mine) for each in part), key=lambda each: each.key)


def _run(
    teacher: TeacherForcing,
    model: torch.nn.Module,
    batches: Iterable[MicroBatch],
    add: Callable[[MicroBatch, torch.Tensor, AnswerTokens], None],
) -> None:
    """One forward for each micro-batch, in evaluation mode; `add` gets the answers' logits of those that count."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in batches:
            logits, tokens = teacher.logits(batch)
            if batch.counted:
                add(batch, logits, tokens)
    model.train(was_training)

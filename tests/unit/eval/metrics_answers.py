"""Answers for the tests of metrics."""

from __future__ import annotations

from pipeline.eval.metrics import Answer


def answer(prediction: str, *references: str, task: str = "caption", id: str = "a") -> Answer:
    return Answer(id, task, prediction, references)


def pairs(*texts: tuple[str, str], task: str = "caption") -> list[Answer]:
    """One answer a (prediction, reference)."""
    return [answer(*pair, task=task, id=str(index)) for index, pair in enumerate(texts)]

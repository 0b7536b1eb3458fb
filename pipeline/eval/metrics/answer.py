"""What is scored: one generated answer with its references."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import CorpusError


@dataclass(frozen=True)
class Answer:
    """A generated answer. `references` are all answers that count as right, at least one; any text may be blank.

    Raises:
        CorpusError: there is no reference.
    """

    id: str
    task: str
    prediction: str
    references: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.references:
            raise CorpusError(
                "an answer without any reference cannot be scored", where={"id": self.id, "task": self.task}
            )


def average(values: Iterable[float]) -> float:
    """The mean; exactly rounded, so that it does not depend on the order of the examples.

    Raises:
        CorpusError: there is nothing to average.
    """
    kept = list(values)
    if not kept:
        raise CorpusError("there is no answer to score")
    return math.fsum(kept) / len(kept)

"""Word and character error rate of transcripts, through jiwer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jiwer

from pipeline.errors import CorpusError
from pipeline.eval.metrics.answer import Answer
from pipeline.eval.metrics.text import normalise_transcript


@dataclass(frozen=True)
class Edits:
    """Substitutions, insertions and deletions from a reference of `length` words or characters."""

    count: int
    length: int

    @property
    def rate(self) -> float:
        """Edits over length; an empty reference counts as of length 1, so that the rate is finite."""
        return self.count / max(self.length, 1)


_Align = Callable[[str, str], jiwer.WordOutput | jiwer.CharacterOutput]


def wer(answers: Sequence[Answer]) -> float:
    """Word error rate: all edits over all reference words; above 1 where much is inserted.

    Of several references the one that needs the fewest edits counts, the longest of these where there are several.

    Raises:
        CorpusError: there is no answer.
    """
    return _rate(answers, jiwer.process_words)


def wer_each(answers: Sequence[Answer]) -> list[float]:
    """The word error rate of each answer alone."""
    return [_edits(answer, jiwer.process_words).rate for answer in answers]


def cer(answers: Sequence[Answer]) -> float:
    """Character error rate: as `wer`, over characters with the spaces between words.

    Raises:
        CorpusError: there is no answer.
    """
    return _rate(answers, jiwer.process_characters)


def cer_each(answers: Sequence[Answer]) -> list[float]:
    """The character error rate of each answer alone."""
    return [_edits(answer, jiwer.process_characters).rate for answer in answers]


def _rate(answers: Sequence[Answer], align: _Align) -> float:
    if not answers:
        raise CorpusError("there is no answer to score")
    edits = [_edits(answer, align) for answer in answers]
    return Edits(sum(one.count for one in edits), sum(one.length for one in edits)).rate


def _edits(answer: Answer, align: _Align) -> Edits:
    prediction = normalise_transcript(answer.prediction)
    candidates = []
    for reference in answer.references:
        found = align(normalise_transcript(reference), prediction)
        wrong = found.substitutions + found.deletions
        candidates.append(Edits(wrong + found.insertions, found.hits + wrong))
    return min(candidates, key=lambda edits: (edits.count, -edits.length))

"""Overlap of sentences with their references: BLEU and chrF through sacrebleu, and ROUGE-L."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import cast

from rapidfuzz.distance import LCSseq
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from pipeline.errors import CorpusError
from pipeline.eval.metrics.answer import Answer
from pipeline.eval.metrics.text import tokenize


def bleu(answers: Sequence[Answer]) -> float:
    """BLEU-4 of the whole set (Papineni et al. 2002), 0..1.

    sacrebleu's settings: `13a` tokens, lower case, exponential smoothing. n-grams longer than any prediction of the
    set are left out (`effective_order`), or a set of right answers of three words would score 0.

    Raises:
        CorpusError: there is no answer.
    """
    metric = BLEU(lowercase=True, effective_order=True, force=True)
    return metric.corpus_score([a.prediction for a in answers], _streams(answers)).score / 100


def chrf(answers: Sequence[Answer]) -> float:
    """chrF2 of the whole set (Popovic 2015: character n-grams up to 6, recall twice as important), 0..1, lower case.

    Of several references the one with the highest score counts.

    Raises:
        CorpusError: there is no answer.
    """
    return CHRF(lowercase=True).corpus_score([a.prediction for a in answers], _streams(answers)).score / 100


def chrf_each(answers: Sequence[Answer]) -> list[float]:
    """chrF2 of each answer alone."""
    metric = CHRF(lowercase=True)
    return [metric.sentence_score(answer.prediction, _references(answer)).score / 100 for answer in answers]


def _references(answer: Answer) -> list[str]:
    """References that are not blank; a blank one only where there is no other, as sacrebleu needs one."""
    return [text for text in answer.references if text.strip()] or [""]


def _streams(answers: Sequence[Answer]) -> list[list[str]]:
    """sacrebleu's form: stream r holds the r-th reference of every answer, None (which its types omit) for none."""
    if not answers:
        raise CorpusError("there is no answer to score")
    streams = [list(texts) for texts in zip_longest(*map(_references, answers), fillvalue=None)]
    return cast(list[list[str]], streams)


def rouge_l_each(answers: Sequence[Answer]) -> list[float]:
    """ROUGE-L of each answer (Lin 2004): F1 of the longest common subsequence, with its best reference.

    With m tokens in the reference, n in the prediction and a subsequence of length L: R = L / m, P = L / n, and
    F = 2 P R / (P + R) = 2 L / (m + n). Two texts without any token are equal, hence 1.
    """
    return [
        max(_rouge_l(tokenize(answer.prediction), tokenize(text)) for text in answer.references) for answer in answers
    ]


def _rouge_l(predicted: list[str], reference: list[str]) -> float:
    if not predicted and not reference:
        return 1.0
    return 2 * LCSseq.similarity(predicted, reference) / (len(predicted) + len(reference))

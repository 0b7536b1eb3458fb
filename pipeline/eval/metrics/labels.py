"""Metrics of answers that are right or wrong: accuracy, macro-F1, and set-F1 of lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.eval.metrics.answer import Answer, average
from pipeline.eval.metrics.text import normalise_answer, split_tags


def accuracy_each(answers: Sequence[Answer]) -> list[float]:
    """1 where the normalised prediction equals any normalised reference, else 0."""
    return [
        float(normalise_answer(answer.prediction) in map(normalise_answer, answer.references)) for answer in answers
    ]


def macro_f1(answers: Sequence[Answer]) -> float:
    """The mean over classes of F1 = 2 TP / (true + predicted), as scikit-learn's `f1_score(average="macro")`.

    A class is a task's answer, so that a high pitch and a high volume are two. The classes are those of the
    references; a prediction that is none of them counts as a miss of its true class only. Where an example has several
    references, its class is the one that was predicted, or else the first.

    Raises:
        CorpusError: there is no answer.
    """
    true: Counter[tuple[str, str]] = Counter()
    predicted: Counter[tuple[str, str]] = Counter()
    right: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        prediction = normalise_answer(answer.prediction)
        references = [normalise_answer(text) for text in answer.references]
        label = prediction if prediction in references else references[0]
        true[answer.task, label] += 1
        predicted[answer.task, prediction] += 1
        right[answer.task, label] += label == prediction
    return average(2 * right[label] / (n + predicted[label]) for label, n in true.items())


def set_f1_each(answers: Sequence[Answer]) -> list[float]:
    """F1 of each predicted set of tags, 2 |P n R| / (|P| + |R|), with the reference for which it is highest.

    The mean over examples is the example-based F1 of multi-label classification (scikit-learn's `average="samples"`).
    Two empty sets are equal, hence 1.
    """
    return [max(_set_f1(split_tags(answer.prediction), split_tags(r)) for r in answer.references) for answer in answers]


def _set_f1(predicted: frozenset[str], reference: frozenset[str]) -> float:
    if not predicted and not reference:
        return 1.0
    return 2 * len(predicted & reference) / (len(predicted) + len(reference))

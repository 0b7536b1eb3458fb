"""All metrics that fit a dataset's tasks, over the dataset and for each example."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import ConfigError, did_you_mean
from pipeline.eval.metrics.answer import Answer, average
from pipeline.eval.metrics.cider import cider_d_each
from pipeline.eval.metrics.edits import cer, cer_each, wer, wer_each
from pipeline.eval.metrics.kinds import Kind, kind_of
from pipeline.eval.metrics.labels import accuracy_each, macro_f1, set_f1_each
from pipeline.eval.metrics.overlap import bleu, chrf, chrf_each, rouge_l_each


@dataclass(frozen=True)
class Metric:
    """A metric and what it fits.

    Attributes:
        kinds: the kinds of answer that it is computed over.
        each: its value for every answer, where it has one.
        whole: its value for a set of answers; None: the mean of `each`.
        least: it says nothing about fewer answers than these.
    """

    kinds: frozenset[Kind]
    each: Callable[[Sequence[Answer]], list[float]] | None = None
    whole: Callable[[Sequence[Answer]], float] | None = None
    least: int = 1


METRICS: dict[str, Metric] = {
    "accuracy": Metric(frozenset(("closed", "tags", "open")), each=accuracy_each),
    "macro_f1": Metric(frozenset(("closed",)), whole=macro_f1),
    "set_f1": Metric(frozenset(("tags",)), each=set_f1_each),
    "wer": Metric(frozenset(("transcript",)), each=wer_each, whole=wer),
    "cer": Metric(frozenset(("transcript",)), each=cer_each, whole=cer),
    "bleu": Metric(frozenset(("caption", "open")), whole=bleu),
    "chrf": Metric(frozenset(("caption", "open")), each=chrf_each, whole=chrf),
    "rouge_l": Metric(frozenset(("caption", "open")), each=rouge_l_each),
    "cider_d": Metric(frozenset(("caption",)), each=cider_d_each, least=2),
}


@dataclass(frozen=True)
class Scored:
    """The metrics of one dataset's answers.

    Attributes:
        corpus: metric -> value over the dataset; only metrics that fit its tasks.
        examples: for every answer, in the order given, metric -> value; BLEU and macro-F1 have none for one example.
        kinds: task -> kind of answer.
    """

    corpus: dict[str, float]
    examples: list[dict[str, float]]
    kinds: dict[str, Kind]


def measure(name: str, answers: Sequence[Answer]) -> float:
    """One metric over a set of answers, whatever their tasks.

    Raises:
        ConfigError: there is no such metric.
        CorpusError: there is no answer.
    """
    if name not in METRICS:
        hint = did_you_mean(name, METRICS)
        raise ConfigError("no such metric", got=name, expected=", ".join(METRICS), hint=hint)
    return _measure(METRICS[name], answers)[0]


def score_answers(answers: Sequence[Answer], kinds: Mapping[str, str] | None = None) -> Scored:
    """Score one dataset's answers with all metrics that fit.

    Each metric is computed over the answers to those tasks whose kind it fits, all together (`METRICS`): in a dataset
    of emotions and captions, accuracy is over the emotions and CIDEr-D over the captions. The corpus values do not
    depend on the order of the answers.

    Args:
        answers: of one dataset, all its tasks.
        kinds: task -> kind, overriding `TASK_KINDS` and, for tasks nobody declared, the look of the references here.

    Raises:
        ConfigError: `kinds` names a kind that does not exist.
    """
    references: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for answer in answers:
        references[answer.task].append(answer.references)
    found = {task: kind_of(task, references[task], kinds) for task in sorted(references)}
    corpus: dict[str, float] = {}
    examples: list[dict[str, float]] = [{} for _ in answers]
    for name, metric in METRICS.items():
        positions = [index for index, answer in enumerate(answers) if found[answer.task] in metric.kinds]
        if len(positions) < metric.least:
            continue
        corpus[name], values = _measure(metric, [answers[index] for index in positions])
        for index, value in zip(positions, values, strict=bool(values)):
            examples[index][name] = value
    return Scored(corpus, examples, found)


def _measure(metric: Metric, answers: Sequence[Answer]) -> tuple[float, list[float]]:
    """The value over all answers, and for each of them (empty for a metric of sets alone)."""
    values = metric.each(answers) if metric.each else []
    return metric.whole(answers) if metric.whole else average(values), values

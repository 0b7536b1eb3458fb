"""Results of the test split example by example, what they add up to, and their file."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.atomic import write_atomic
from pipeline.errors import CheckpointError
from pipeline.types import DatasetScore

Answers = dict[tuple[str, str], str]  # (dataset, example id) -> what the model answered


@dataclass(frozen=True)
class ScoredExample:
    """One test example: teacher-forced sums over its answer's tokens and, where it was answered freely, the answer.

    `loss_sum` is in nats; `exact`: every token right. `metrics` are of `prediction` against `answers`.
    """

    dataset: str
    id: str
    task: str
    question: str
    answers: tuple[str, ...]
    tokens: int
    correct: int
    loss_sum: float
    exact: bool
    prediction: str | None = None
    metrics: dict[str, float] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.dataset, self.id

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ScoredExample:
        return cls(**{**value, "answers": tuple(value["answers"])})


@dataclass(frozen=True)
class SplitResults:
    """A run's results on the test split.

    Attributes:
        examples: sorted by dataset and id.
        scores: dataset -> sums of its examples.
        metrics: dataset -> metric -> value over its freely answered examples.
    """

    examples: list[ScoredExample]
    scores: dict[str, DatasetScore]
    metrics: dict[str, dict[str, float]]

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Dataset -> its scores, metrics and how many examples were answered freely."""
        answered = dict.fromkeys(self.scores, 0)
        for each in self.examples:
            answered[each.dataset] += each.prediction is not None
        return {
            name: {**score.to_json(), "metrics": self.metrics.get(name, {}), "generated": answered[name]}
            for name, score in self.scores.items()
        }

    def line(self) -> str:
        """The averages in one line: accuracy weighted by examples; metrics over the datasets that have them."""
        n = sum(score.examples for score in self.scores.values())
        right = sum(score.examples * score.token_accuracy for score in self.scores.values() if score.examples)
        text = f"test: weighted token accuracy {right / n:.4f} over {n} examples" if n else "test: no examples"
        names = dict.fromkeys(name for values in self.metrics.values() for name in values)
        of = {name: [values[name] for values in self.metrics.values() if name in values] for name in names}
        means = [f"{name} {sum(values) / len(values):.4f}" for name, values in of.items()]
        answered = sum(each.prediction is not None for each in self.examples)
        return f"{text}; {answered} answered freely: {', '.join(means)}" if answered else text


def summarise(examples: Sequence[ScoredExample], datasets: Sequence[str], kinds: Mapping[str, str]) -> SplitResults:
    """Scores of all `datasets`, and the metrics of answers where there are any.

    Args:
        kinds: task -> kind of answer, see `pipeline.eval.metrics.kinds`.
    """
    examples = sorted(examples, key=lambda each: each.key)
    measured: dict[tuple[str, str], dict[str, float]] = {}
    metrics: dict[str, dict[str, float]] = {}
    for name in datasets:
        its = [each for each in examples if each.dataset == name]
        answered = [each for each in its if each.prediction is not None]
        if answered:
            metrics[name], of_each = _measure(answered, its, kinds)
            measured |= {each.key: values for each, values in zip(answered, of_each, strict=True)}
    return SplitResults(
        [replace(each, metrics=measured.get(each.key)) for each in examples], add_up(examples, datasets), metrics
    )


def with_answers(examples: Iterable[ScoredExample], answers: Answers) -> list[ScoredExample]:
    """The examples with the answers that the model gave, where it was asked."""
    return [replace(each, prediction=answers.get(each.key)) for each in examples]


def add_up(examples: Iterable[ScoredExample], datasets: Sequence[str]) -> dict[str, DatasetScore]:
    """Each dataset's score; zero examples for one that has none. The order of `examples` decides the last bits."""
    sums = {name: [0.0, 0, 0, 0, 0] for name in datasets}
    for each in examples:
        row = (each.loss_sum, each.tokens, each.correct, 1, each.exact)
        sums[each.dataset] = [total + value for total, value in zip(sums[each.dataset], row, strict=True)]
    return {name: DatasetScore(loss, *map(int, counts)) for name, (loss, *counts) in sums.items()}


def write_examples(path: Path, examples: Iterable[ScoredExample]) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(asdict(each)) for each in examples)
    write_atomic(path, "".join(f"{line}\n" for line in lines).encode())


def read_examples(path: Path) -> list[ScoredExample]:
    """What `write_examples` wrote.

    Raises:
        CheckpointError: the file is missing or not such a one.
    """
    try:
        return [ScoredExample.from_json(json.loads(line)) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            "results of single examples cannot be read",
            where={"file": path},
            got=f"{type(error).__name__}: {error}",
            hint="start the run again with --resume never",
        ) from None


def keep_examples(folder: Path, examples: Iterable[ScoredExample]) -> None:
    """Write them to a file for each dataset: results of a model that will be gone when the run ends."""
    of: dict[str, list[ScoredExample]] = defaultdict(list)
    for each in examples:
        of[each.dataset].append(each)
    for name, its in of.items():
        write_examples(folder / f"{name}.jsonl", its)


def kept_examples(folder: Path, scores: Mapping[str, DatasetScore]) -> list[ScoredExample]:
    """What `keep_examples` wrote of the datasets in `scores`, which the run's checkpoints hold.

    Raises:
        CheckpointError: a file is missing, damaged or of another model than the score.
    """
    found: list[ScoredExample] = []
    for name, score in scores.items():
        file = folder / f"{name}.jsonl"
        its = read_examples(file) if score.examples else []
        its_score = add_up(its, [name])[name]
        if repr(its_score) != repr(score):  # as text: a loss that is not a number equals itself
            raise CheckpointError(
                "results of single examples do not add up to the score in the checkpoint",
                where={"file": file},
                got=its_score,
                expected=score,
                hint="start the run again with --resume never",
            )
        found += its
    return found


def _measure(
    answered: Sequence[ScoredExample], split: Sequence[ScoredExample], kinds: Mapping[str, str]
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Metrics of one dataset's answers together, and of each; the whole `split` tells a task's kind of answer."""
    from pipeline.eval.metrics import Answer, kind_of, score_answers  # its libraries load slowly; few runs need them

    references: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for each in split:
        references[each.task].append(each.answers)
    found = {task: kind_of(task, texts, kinds) for task, texts in references.items()}
    answers = [Answer(each.id, each.task, each.prediction or "", each.answers) for each in answered]
    scored = score_answers(answers, found)
    return scored.corpus, scored.examples

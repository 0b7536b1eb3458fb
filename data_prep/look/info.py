"""Tables about corpora: how a preparation ended, and what prepared shards hold."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from data_prep.look.reader import choose_datasets, read_clips, read_side
from data_prep.shards.finish import Outcome
from pipeline.data.manifest import DatasetManifest
from pipeline.types import SPLITS

ANSWER_KINDS = ("yes/no", "number", "label", "sentence", "long text")
_NUMBER = re.compile(r"[-+]?\d+(?:[.,:]\d+)*\s?%?")
# fmt: off
_NUMBER_WORDS = frozenset({
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
})
# fmt: on
# The number of characters decides for languages that are written without spaces.
_LABEL_WORDS, _LABEL_CHARACTERS = 3, 40
_SENTENCE_WORDS, _SENTENCE_CHARACTERS = 40, 250
_TASKS_IN_TABLE = 4


@dataclass
class Facts:
    """What one split holds, or several together."""

    clips: int = 0
    questions: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    durations_s: array[float] = field(default_factory=lambda: array("d"))

    def add(self, other: Facts) -> None:
        self.clips += other.clips
        self.questions += other.questions
        self.answers += other.answers
        self.tasks += other.tasks
        self.durations_s += other.durations_s

    @property
    def hours(self) -> float:
        return float(np.sum(self.durations_s)) / 3600

    def duration_quantile_s(self, share: float) -> float | None:
        """Shortest duration that `share` of the clips do not exceed; None without clips."""
        if not self.durations_s:
            return None
        return float(np.quantile(self.durations_s, share, method="inverted_cdf"))

    def to_json(self) -> dict[str, Any]:
        """Plain data: durations in seconds, `answers` and `tasks` as counts of questions."""
        return {
            "clips": self.clips,
            "hours": round(self.hours, 6),
            "questions": self.questions,
            "median_duration_s": self.duration_quantile_s(0.5),
            "p95_duration_s": self.duration_quantile_s(0.95),
            "answers": {kind: self.answers[kind] for kind in ANSWER_KINDS if self.answers[kind]},
            "tasks": dict(sorted(self.tasks.items(), key=lambda item: (-item[1], item[0]))),
        }


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """One row a dataset: clips by split, questions, hours, clips by final state."""
    table = Table("dataset", "domain", "train/val/test clips", "questions", "hours", "states", "result")
    for outcome in outcomes:
        manifest = outcome.manifest
        splits = manifest.splits.values()
        clips = [str(manifest.splits[name].clips) if name in manifest.splits else "-" for name in SPLITS]
        table.add_row(
            manifest.dataset,
            manifest.domain,
            " / ".join(clips),
            str(sum(split.questions for split in splits)),
            f"{sum(split.hours for split in splits):.3f}",
            _states(manifest),
            "complete" if outcome.error is None else "FAILED",
        )
    return table


def info_table(shards: Path, datasets: Sequence[str] = ()) -> Group:
    """What the datasets hold by split, with totals; and below it their origin, licence, final states.

    Only side files and the JSON of one clip at a time are in memory.

    Raises:
        ShardError: no dataset, an unknown one, or a file of one is missing or damaged.
    """
    manifests = choose_datasets(shards, datasets)
    contents = Table(
        *("dataset", "split"),
        *(Column(name, justify="right") for name in ("clips", "hours", "questions", "median s", "95 % s")),
        *("answers", "tasks"),
        title="contents",
    )
    total = Facts()
    for manifest in manifests.values():
        for split, facts in _by_split(manifest, shards).items():
            _add_row(contents, manifest.dataset, split, facts)
            total.add(facts)
        contents.add_section()
    _add_row(contents, "total", "", total)
    origins = Table("dataset", "domain", "licence", "clips by final state", title="origins")
    for manifest in manifests.values():
        origins.add_row(manifest.dataset, manifest.domain, Text(manifest.licence), _states(manifest))
    return Group(contents, origins)


def info_json(shards: Path, datasets: Sequence[str] = ()) -> dict[str, Any]:
    """The same as plain JSON data, with all tasks, digests and notes; raises as `info_table` does."""
    found = []
    total = Facts()
    for manifest in choose_datasets(shards, datasets).values():
        splits = _by_split(manifest, shards)
        for facts in splits.values():
            total.add(facts)
        found.append(
            {
                **manifest.model_dump(include={"dataset", "domain", "adapter", "licence", "digest", "states", "notes"}),
                "splits": {split: facts.to_json() for split, facts in splits.items()},
            }
        )
    return {"datasets": found, "total": total.to_json()}


def answer_kind(answer: str) -> str:
    """The form of an answer, one of `ANSWER_KINDS`; which score can be used depends on it."""
    text = answer.strip().rstrip(".!").strip().lower()
    if text in ("yes", "no"):
        return "yes/no"
    if _NUMBER.fullmatch(text) or text in _NUMBER_WORDS:
        return "number"
    n_words = len(text.split())
    if n_words <= _LABEL_WORDS and len(text) <= _LABEL_CHARACTERS:
        return "label"
    return "sentence" if n_words <= _SENTENCE_WORDS and len(text) <= _SENTENCE_CHARACTERS else "long text"


def _by_split(manifest: DatasetManifest, shards: Path) -> dict[str, Facts]:
    result = {}
    for split, entry in manifest.splits.items():
        facts = result[split] = Facts()
        for shard in entry.shards:
            tar = shards / manifest.dataset / shard.file
            for sample, clip in read_clips(tar, read_side(tar).samples):
                facts.clips += 1
                facts.questions += len(clip.qa)
                facts.durations_s.append(sample.duration_s)
                facts.answers.update(answer_kind(qa.answer) for qa in clip.qa)
                facts.tasks.update(qa.task for qa in clip.qa)
    return result


def _add_row(table: Table, dataset: str, split: str, facts: Facts) -> None:
    quantiles = (facts.duration_quantile_s(0.5), facts.duration_quantile_s(0.95))
    table.add_row(
        dataset,
        split,
        f"{facts.clips:,}",
        f"{facts.hours:,.3f}",
        f"{facts.questions:,}",
        *("-" if value is None else f"{value:.2f}" for value in quantiles),
        _shares(facts.answers.most_common(), facts.questions),
        _shares(facts.tasks.most_common(), facts.questions, _TASKS_IN_TABLE),
    )


def _shares(counts: Iterable[tuple[str, int]], whole: int, longest: int | None = None) -> Text:
    """`label 38%, yes/no 38%`, the largest first. `Text`, since rich would read [brackets] in a name as markup."""
    shown = [f"{name} {count / whole:.0%}" for name, count in counts]
    more = [f"and {len(shown) - longest} more"] if longest is not None and len(shown) > longest else []
    return Text(", ".join([*shown[:longest], *more]))


def _states(manifest: DatasetManifest) -> str:
    return " ".join(f"{state} {count}" for state, count in manifest.states.items())

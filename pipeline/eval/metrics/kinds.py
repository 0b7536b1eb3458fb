"""Which kind of answer a task asks for; the kind decides which metrics fit.

- `closed`: one of a fixed set of short answers: accuracy, macro-F1.
- `tags`: a list of such answers: accuracy, set-F1.
- `transcript`: what was said, word by word: WER, CER.
- `caption`: a sentence about the clip, one of many good ones: BLEU, chrF, ROUGE-L, CIDEr-D.
- `open`: a free answer to a question: accuracy, BLEU, chrF, ROUGE-L.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, cast, get_args

from pipeline.errors import ConfigError, did_you_mean
from pipeline.eval.metrics.text import normalise_answer

Kind = Literal["closed", "tags", "transcript", "caption", "open"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_TASKS: dict[Kind, tuple[str, ...]] = {
    "closed": (
        "presence", "category", "scene", "emotion", "gender", "age", "pitch", "speed", "energy", "instrument_count",
        "ensemble", "composer", "genre", "key", "tempo", "dialect", "accent", "language", "qa_closed",
    ),
    "tags": ("sources", "tags", "instrument", "instruments"),
    "transcript": ("transcript", "asr", "transcription"),
    "caption": ("caption", "style", "summary"),
    "open": ("qa_open", "qa_whole"),
}  # fmt: skip
TASK_KINDS: dict[str, Kind] = {task: kind for kind, tasks in _TASKS.items() for task in tasks}

MAX_WORDS = 4
MAX_LABELS = 100
MIN_OCCURRENCES = 3
MIN_SHARE = 0.9


def kind_of(task: str, references: Iterable[Sequence[str]] = (), overrides: Mapping[str, str] | None = None) -> Kind:
    """The kind of answer that `task` asks for: as overridden, as `TASK_KINDS` declares, else as `references` look.

    A task that nobody declared (such as `qa`, the name for `metadata.jsonl` without `task`) is `closed` when its first
    references, normalised, are few short answers that each occur often, and `open` otherwise. Exactly: none of them is
    longer than `MAX_WORDS` words, at most `MAX_LABELS` of them are distinct, and at least `MIN_SHARE` of the examples
    have one that occurs `MIN_OCCURRENCES` times or more. Give all references of the split: a part of them may look
    otherwise.

    Args:
        references: all references of each example of the task.
        overrides: task -> kind, a recipe's `eval.kinds`.

    Raises:
        ConfigError: `overrides` names a kind that does not exist.
    """
    overrides = overrides or {}
    for name, kind in overrides.items():
        if kind not in KINDS:
            raise ConfigError(
                "no such kind of answer",
                where={"key": f"eval.kinds.{name}"},
                got=kind,
                expected=", ".join(KINDS),
                hint=did_you_mean(str(kind), KINDS),
            )
    if task in overrides:
        return cast(Kind, overrides[task])
    if task in TASK_KINDS:
        return TASK_KINDS[task]
    return "closed" if _look_closed([normalise_answer(texts[0]) for texts in references if texts]) else "open"


def _look_closed(labels: list[str]) -> bool:
    occurrences = Counter(labels)
    if not labels or len(occurrences) > MAX_LABELS or any(len(label.split()) > MAX_WORDS for label in occurrences):
        return False
    n_often = sum(n for n in occurrences.values() if n >= MIN_OCCURRENCES)
    return n_often >= MIN_SHARE * len(labels)

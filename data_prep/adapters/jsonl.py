"""The generic adapter: folders with a `metadata.jsonl`, one question a line.

    {"id": "q1", "audio": "audio/a.wav", "dataset": "my_set", "split": "train",
     "question": "What is heard?", "answer": "a dog", "domain": "sound"}

Optional keys: `task`, `answers` (further references), `clip_id`, `source_keys`, `meta`, `start_s`, `end_s`; other keys
are left alone. `audio` is relative to the folder of its `metadata.jsonl`. Lines with the same audio and window (or the
same `clip_id`) become one clip with several questions. A folder may hold several corpora, one a value of `dataset`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_prep.adapters.base import NO_OPTIONS, AdapterOptions, Findings, SourceClip
from data_prep.adapters.common import folders
from pipeline.errors import ConfigError, CorpusError
from pipeline.types import Domain, Qa

METADATA_NAME = "metadata.jsonl"
_Text = Annotated[str, Field(min_length=1)]


class _Line(BaseModel):
    """One question as `metadata.jsonl` has it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    id: _Text
    audio: _Text
    dataset: _Text
    split: _Text
    question: _Text
    answer: _Text
    domain: Domain
    task: _Text = "qa"
    answers: list[str] = Field(default_factory=list)
    clip_id: _Text | None = None
    source_keys: dict[str, str] = Field(default_factory=dict)
    meta: dict[str, Any] = Field(default_factory=dict)
    start_s: float | None = None
    end_s: float | None = None

    def clip_key(self) -> tuple[object, ...]:
        """Equal for the questions of one clip."""
        return (self.clip_id,) if self.clip_id else (self.audio, self.start_s, self.end_s)

    def to_qa(self) -> Qa:
        others = [answer for answer in self.answers if answer != self.answer]
        return Qa(self.id, self.task, self.question, self.answer, (self.answer, *others))


@dataclass(frozen=True)
class _File:
    """A parsed `metadata.jsonl`; `bad` holds (line number, state, reason)."""

    path: Path
    good: list[tuple[int, _Line]]
    bad: list[tuple[int, str, str]]


@dataclass
class JsonlCorpus:
    """One dataset out of a folder of `metadata.jsonl` files.

    The registry's own entry keeps the name `jsonl`; `discover` makes one instance a dataset, since only the files say
    which datasets there are.
    """

    name: str = "jsonl"
    domain: str = "sound"
    licence: str = "not stated"
    version: int = 1
    options: AdapterOptions = NO_OPTIONS

    def with_options(self, values: Mapping[str, str]) -> JsonlCorpus:
        """Unchanged; ConfigError when there is anything to choose, as this adapter has no options."""
        if values:
            raise ConfigError("this corpus has no options", where={"option": f"{self.name}.{next(iter(values))}"})
        return self

    def discover(self, root: Path, *, strict: bool = True) -> list[tuple[JsonlCorpus, Path]]:
        """Every dataset at or below `root` with the folder to read it from, in name order.

        Without `strict`, a `metadata.jsonl` whose first line is of another kind is passed over.

        Raises:
            CorpusError: a file has no line that can be used.
        """
        domains: dict[str, Counter[str]] = {}
        folders: dict[str, set[Path]] = {}
        for path in _metadata_files(root):
            if not strict and not _first_line_fits(path):
                continue
            for _, line in _read(path).good:
                domains.setdefault(line.dataset, Counter())[line.domain] += 1
                folders.setdefault(line.dataset, set()).add(path.parent)
        return [
            (
                JsonlCorpus(name, domain=domains[name].most_common(1)[0][0]),
                next(iter(folders[name])) if len(folders[name]) == 1 else root,
            )
            for name in sorted(domains)
        ]

    def find(self, root: Path) -> Path | None:
        return next((folder for corpus, folder in self.discover(root, strict=False) if corpus.name == self.name), None)

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """The clips of dataset `name`, in the order of the files, then its unusable lines as quarantined clips.

        Raises:
            CorpusError: no `metadata.jsonl` below `root`, or one without any usable line.
        """
        files = _metadata_files(root)
        if not files:
            raise CorpusError(
                "no annotation file", where={"corpus": self.name, "folder": root}, expected=f"**/{METADATA_NAME}"
            )
        for path in files:
            file = _read(path)
            yield from _group(file, self.name)
            # A line that cannot be read names no dataset; it is counted once, with the file's first dataset.
            if file.good[0][1].dataset == self.name:
                label = os.path.relpath(path, root)
                yield from (_bad(f"{label}:{number}", state, reason) for number, state, reason in file.bad)


def _metadata_files(root: Path) -> list[Path]:
    return [folder / METADATA_NAME for folder in folders(root) if (folder / METADATA_NAME).is_file()]


def _first_line_fits(path: Path) -> bool:
    with open(path, "rb") as file:
        return isinstance(_parse(file.readline().removeprefix(b"\xef\xbb\xbf")), _Line)


def _parse(content: bytes) -> _Line | str:
    """A line, or why it is none."""
    try:
        return _Line.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        return f"{key}: {first['msg']}" if key else first["msg"]


def _read(path: Path) -> _File:
    good: list[tuple[int, _Line]] = []
    bad: list[tuple[int, str, str]] = []
    ids: dict[tuple[str, str], int] = {}
    with open(path, "rb") as file:
        for number, content in enumerate(file, start=1):
            content = content.removeprefix(b"\xef\xbb\xbf").strip()
            if not content:
                continue
            line = _parse(content)
            if isinstance(line, str):
                bad.append((number, "bad_annotation", line))
                continue
            first = ids.setdefault((line.dataset, line.id), number)
            if first == number:
                good.append((number, line))
            else:
                bad.append((number, "duplicate", f"id {line.id!r} was used in line {first}"))
    if not good:
        number, reason = (bad[0][0], bad[0][2]) if bad else (1, "the file is empty")
        raise CorpusError(
            f"no line of an annotation file can be used: {reason}",
            where={"file": path, "line": number},
            expected="one JSON object a line with id audio dataset split question answer domain",
        )
    return _File(path, good, bad)


def _group(file: _File, dataset: str) -> Iterator[SourceClip]:
    """Lines of one dataset to clips; a line that contradicts the first line of its clip is quarantined."""
    clips: dict[tuple[object, ...], list[_Line]] = {}
    contradictions: list[SourceClip] = []
    for number, line in file.good:
        if line.dataset != dataset:
            continue
        lines = clips.setdefault(line.clip_key(), [])
        first = lines[0] if lines else line
        if (line.split, line.audio, line.start_s, line.end_s) == (first.split, first.audio, first.start_s, first.end_s):
            lines.append(line)
        else:
            reason = f"line {number}: split, audio or window differ from question {first.id!r} of the same clip"
            contradictions.append(_bad(line.id, "bad_annotation", reason))
    for lines in clips.values():
        first = lines[0]
        yield SourceClip(
            id=first.clip_id or first.id,
            split=first.split,
            qa=tuple(line.to_qa() for line in lines),
            audio=file.path.parent / first.audio,
            domain=first.domain,
            start_s=first.start_s,
            end_s=first.end_s,
            source_keys={name: key for line in lines for name, key in line.source_keys.items()},
            meta=first.meta,
        )
    yield from contradictions


def _bad(clip_id: str, state: str, reason: str) -> SourceClip:
    return SourceClip(id=clip_id, split="", qa=(), audio=None, state=state, reason=reason)

"""What an adapter is: it knows one corpus' public layouts and yields its clips; it decodes no audio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from pipeline.types import Qa


@dataclass(frozen=True)
class SourceClip:
    """One clip as the corpus has it, before decoding.

    `audio` is the file to decode, or None when the corpus names a clip whose file is not there; then `state` says
    why it will be quarantined. It may lie inside an archive: `audios.zip!/audios/000001.wav`, see
    `data_prep.archives.sources`. `start_s` and `end_s` cut a window out of a longer file.
    """

    id: str
    split: str
    qa: tuple[Qa, ...]
    audio: Path | None
    domain: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    source_keys: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    state: str = "ok"
    reason: str = ""


class AdapterOptions(BaseModel):
    """Choices of one corpus, `--option <corpus>.<name>=<value>`; part of the plan hash. The base has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


NO_OPTIONS = AdapterOptions()


class Findings:
    """What an adapter found while it read a corpus; for people (`--probe`, the manifest's notes), never for a decision.

    Public copies of a corpus differ, and parts of their layout are known by hearsay only: so each adapter counts which
    of its rules matched, and names the columns and shapes that it met.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.facts: dict[str, str] = {}
        self.notes: list[str] = []

    def count(self, what: str, rule: str, n: int = 1) -> None:
        """One more thing of kind `what` ("audio name", "answer shape") matched `rule`."""
        self.counts.setdefault(what, Counter())[rule] += n

    def fact(self, what: str, found: str) -> None:
        """Something seen once: the columns of a file, the folder that was taken."""
        self.facts.setdefault(what, found)

    def note(self, text: str) -> None:
        """A sentence for the manifest: a part left out, a fallback taken, and why."""
        if text not in self.notes:
            self.notes.append(text)

    def lines(self) -> list[str]:
        """Everything found, one line each."""
        counted = (
            f"{what}: " + ", ".join(f"{rule} {n}" for rule, n in counts.most_common())
            for what, counts in self.counts.items()
        )
        return [*(f"{what}: {found}" for what, found in self.facts.items()), *counted, *self.notes]


class Adapter(Protocol):
    """One corpus. `name` is the dataset tag; `licence` goes into the manifest; `version` into the plan hash."""

    name: str
    domain: str
    licence: str
    version: int

    @property
    def options(self) -> AdapterOptions: ...

    def with_options(self, values: Mapping[str, str]) -> Adapter:
        """The same adapter with other choices; ConfigError for an unknown name or a value that does not fit."""
        ...

    def find(self, root: Path) -> Path | None:
        """The corpus' own folder at or below `root` (depth <= 3), or None when this corpus is not there."""
        ...

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """All clips of the corpus whose folder is `root`, in a stable order; what was met on the way goes to `found`.

        Raises:
            CorpusError: an annotation file is absent or lacks a column; names what was looked for and where.
        """
        ...

"""What an adapter is: it knows one corpus' public layout and yields its clips; it decodes no audio."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.types import Qa


@dataclass(frozen=True)
class SourceClip:
    """One clip as the corpus has it, before decoding.

    `audio` is the file to decode, or None when the corpus names a clip whose file is not there; then `state` says
    why it will be quarantined. `start_s` and `end_s` cut a window out of a longer file.
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


class Adapter(Protocol):
    """One corpus. `name` is the dataset tag; `licence` goes into the manifest; `version` into the plan hash."""

    name: str
    domain: str
    licence: str
    version: int

    def find(self, root: Path) -> Path | None:
        """The corpus' own folder at or below `root` (depth <= 3), or None when this corpus is not there."""
        ...

    def clips(self, root: Path) -> Iterator[SourceClip]:
        """All clips of the corpus whose folder is `root`, in a stable order.

        Raises:
            CorpusError: an annotation file is absent or lacks a column; names what was looked for and where.
        """
        ...

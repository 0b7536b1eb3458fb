"""All clips of the corpora that are being planned, in a temporary database on disk, so that memory stays bounded.

SQLite deletes the database itself when the process ends, however it ends. It lies in `$SQLITE_TMPDIR`, `$TMPDIR` or
`/var/tmp`, and takes about the space of the annotations.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.adapters.base import SourceClip
from pipeline.errors import ShardError
from pipeline.types import Qa

_CACHE_KIB = 64 * 1024

_SCHEMA = """
CREATE TABLE clips (
    n INTEGER PRIMARY KEY,      -- in the order in which the adapters yielded them
    corpus TEXT NOT NULL,
    id TEXT,                    -- NULL for a duplicate, which may share its id with the first
    rank BLOB NOT NULL,         -- place in the shuffled order
    split TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    n_bytes INTEGER NOT NULL,
    body TEXT NOT NULL,         -- clip_line
    UNIQUE (corpus, id)
);
CREATE TABLE tokens (           -- names of the recording of a usable clip
    n INTEGER NOT NULL,
    corpus TEXT NOT NULL,
    token TEXT NOT NULL,
    leaks INTEGER NOT NULL      -- 1 when train and held-out parts must not share it
);
CREATE TABLE held (token TEXT NOT NULL, place TEXT NOT NULL);
"""
_INDEXES = """
CREATE INDEX tokens_by_name ON tokens (token) WHERE leaks;
CREATE INDEX clips_in_order ON clips (corpus, split, state, rank, id);
"""


@dataclass(frozen=True)
class Row:
    """One clip to store. `tokens` are (name of the recording, whether sharing it is a leak)."""

    id: str
    rank: bytes
    split: str
    state: str
    reason: str
    n_bytes: int
    body: str
    tokens: Sequence[tuple[str, bool]]


class Spool:
    """The clips of several corpora on disk. Use as a context manager.

    Raises:
        ShardError: on leaving, when the database could not be written: its disk is full.
    """

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)
        self._base.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.executescript(_SCHEMA)
        self._n = 0

    def __enter__(self) -> Spool:
        self._base.execute("BEGIN")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._base.close()
        if isinstance(error, sqlite3.OperationalError):
            raise ShardError(
                f"the temporary database of the plan cannot be written: {error}",
                where={"folder": os.environ.get("SQLITE_TMPDIR") or os.environ.get("TMPDIR") or "/var/tmp"},
                hint="planning needs about the space of the annotations there: set TMPDIR to a folder with more",
            ) from error

    def add(self, corpus: str, row: Row) -> None:
        """Store one clip; one whose id the corpus had before is stored as a duplicate."""
        self._n += 1
        values = (self._n, corpus, row.id, row.rank, row.split, row.state, row.reason, row.n_bytes, row.body)
        sql = "INSERT INTO clips VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        try:
            self._base.execute(sql, values)
        except sqlite3.IntegrityError:
            reason = "an earlier clip has the same id"
            self._base.execute(sql, (*values[:2], None, *values[3:5], "duplicate", reason, *values[7:]))
            return
        if row.state == "ok":
            self._base.executemany(
                "INSERT INTO tokens VALUES (?, ?, ?, ?)", ((self._n, corpus, *token) for token in row.tokens)
            )

    def all_added(self) -> None:
        """Call once between `add` and the questions below."""
        self._base.executescript(_INDEXES)
        self._base.execute("BEGIN")

    def hold(self, tokens: Iterable[tuple[str, str]]) -> None:
        """Names of recordings that are held out elsewhere, each with the place that holds it."""
        self._base.executemany("INSERT INTO held VALUES (?, ?)", tokens)

    def states(self, corpus: str) -> dict[str, int]:
        """Clips per state."""
        rows = self._base.execute("SELECT state, COUNT(*) FROM clips WHERE corpus = ? GROUP BY state", (corpus,))
        return dict(rows.fetchall())

    def split_sizes(self, corpus: str) -> dict[str, int]:
        """Usable clips per split."""
        sql = "SELECT split, COUNT(*) FROM clips WHERE corpus = ? AND state = 'ok' GROUP BY split"
        return dict(self._base.execute(sql, (corpus,)).fetchall())

    def recordings(self, corpus: str, split: str) -> Iterator[tuple[int, str, list[str]]]:
        """(number, id, names of its recording) of the usable clips of one split, in order."""
        sql = """
            SELECT n, id, (SELECT json_group_array(token) FROM tokens WHERE tokens.n = clips.n) FROM clips
            WHERE corpus = ? AND split = ? AND state = 'ok' ORDER BY rank, id
        """
        self._base.execute("CREATE INDEX IF NOT EXISTS tokens_by_clip ON tokens (n)")
        for n, clip_id, tokens in self._base.execute(sql, (corpus, split)):
            yield n, clip_id, json.loads(tokens)

    def shared(self, corpus: str) -> set[str]:
        """Names of recordings of `corpus` that other corpora have too."""
        sql = """
            SELECT token FROM tokens WHERE leaks AND corpus = :corpus
            INTERSECT SELECT token FROM tokens WHERE leaks AND corpus <> :corpus
        """
        return {token for (token,) in self._base.execute(sql, {"corpus": corpus})}

    def move(self, numbers: Iterable[int], split: str) -> None:
        """Put clips into another split."""
        self._base.executemany("UPDATE clips SET split = ? WHERE n = ?", ((split, n) for n in numbers))

    def refuse(self, numbers_with_reason: Iterable[tuple[int, str]], state: str) -> None:
        """Take usable clips out."""
        pairs = ((state, reason, n) for n, reason in numbers_with_reason)
        self._base.executemany("UPDATE clips SET state = ?, reason = ? WHERE n = ?", pairs)

    def hold_split(self, split: str) -> None:
        """Hold every recording of a split of every corpus, under the name "<corpus> <split>"."""
        self._base.execute(
            """
            INSERT INTO held SELECT token, clips.corpus || ' ' || split FROM clips JOIN tokens USING (n)
            WHERE split = ? AND state = 'ok' AND leaks
            """,
            (split,),
        )

    def held_clips(self, corpus: str, splits: Sequence[str]) -> Iterator[tuple[int, str, str]]:
        """(number, token, place) of usable clips of `splits` whose recording is held; one line a clip."""
        self._base.execute("CREATE INDEX IF NOT EXISTS held_by_token ON held (token)")
        marks = ", ".join("?" * len(splits))
        sql = f"""
            SELECT n, MIN(tokens.token), MIN(place) FROM clips JOIN tokens USING (n) JOIN held USING (token)
            WHERE clips.corpus = ? AND split IN ({marks}) AND state = 'ok' AND leaks GROUP BY n ORDER BY n
        """
        yield from self._base.execute(sql, (corpus, *splits)).fetchall()

    def held_tokens(self, corpus: str, split: str) -> list[str]:
        """Names of recordings in one split, sorted, each once."""
        sql = """
            SELECT DISTINCT token FROM clips JOIN tokens USING (n)
            WHERE clips.corpus = ? AND split = ? AND state = 'ok' AND leaks ORDER BY token
        """
        return [token for (token,) in self._base.execute(sql, (corpus, split))]

    def ordered(self, corpus: str, split: str, limit: int | None) -> Iterator[tuple[int, str]]:
        """(bytes, body) of the usable clips of one split in shuffled order."""
        sql = """
            SELECT n_bytes, body FROM clips WHERE corpus = ? AND split = ? AND state = 'ok' ORDER BY rank, id LIMIT ?
        """
        yield from self._base.execute(sql, (corpus, split, -1 if limit is None else limit))

    def refused(self, corpus: str, limit: int | None = None) -> Iterator[tuple[str, str, str, str]]:
        """(state, reason, split, body) of every clip that is not usable, in reading order."""
        # The index is in another order: sorting a million bodies costs far more than passing over the other clips.
        sql = """
            SELECT state, reason, split, body FROM clips NOT INDEXED
            WHERE corpus = ? AND state <> 'ok' ORDER BY n LIMIT ?
        """
        yield from self._base.execute(sql, (corpus, -1 if limit is None else limit))


def clip_line(clip: SourceClip, audio: str | None) -> str:
    """One planned clip as one line of JSON; `audio` is its path relative to the corpus. The split is not part of it."""
    value: dict[str, Any] = {
        "id": clip.id,
        "audio": audio,
        "domain": clip.domain,
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "source_keys": clip.source_keys,
        "meta": clip.meta,
        "qa": [[qa.id, qa.task, qa.question, qa.answer, list(qa.answers)] for qa in clip.qa],
    }
    return json.dumps(value, sort_keys=True, default=str)


def read_clip_line(line: str | bytes, split: str, root: Path) -> SourceClip:
    """The clip of `clip_line`, its audio below `root`."""
    value = json.loads(line)
    value.pop("n_bytes", None)
    qa = tuple(Qa(id, task, question, answer, tuple(answers)) for id, task, question, answer, answers in value["qa"])
    audio = None if value["audio"] is None else root / value["audio"]
    return SourceClip(**{**value, "qa": qa, "audio": audio, "split": split})

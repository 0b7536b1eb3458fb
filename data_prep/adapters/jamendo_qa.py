"""Jamendo-QA: eight machine-written questions for each of 7,335 whole tracks (hub `m-a-a-p/Jamendo-QA`, gated).

Layouts: `data/questions/qa_v2.json` and `data/audio/<track_id>.wav` as the authors' script writes them; `qa_v2.json`
beside parquet files of the hub, whose members are named by the stem of `audio_path`; or lines
`{"id", "path", "duration", "question", "answer"}` in `*.jsonl` or `*.jsonl.gz` as FullSpectrum has them. The schema of
`qa_v2.json` is documented nowhere, so several shapes are read, see `_records`. Track ids hold non-ASCII letters.

No official split: whole tracks are dealt by hash, 10 % val and 10 % test. Questions about two tracks are left out.

Tracks last up to half an hour and are cut to windows later; an answer about the whole (`ABOUT_WHOLE`: length, times,
beginning, end, structure) is then wrong. So such questions have the task `qa_whole`, and are dropped where the track is
longer than `window_s` or its length is not known.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import soundfile
from pydantic import Field

from data_prep.adapters.audio_index import StemIndex, audio_stem, is_litter
from data_prep.adapters.base import AdapterOptions, Findings, SourceClip
from data_prep.adapters.common import CorpusAdapter, clean, note_count, read_json, read_jsonl, source_clip, split_groups
from data_prep.adapters.questions import WHOLE_TASK, ask_native, present
from pipeline.errors import CorpusError
from pipeline.types import Qa

TRACK_KEYS = ("track_id", "audio_path", "audio", "path")
PAIR_KEYS = ("qa_pairs", "qa")
TWO_TRACK_KEYS = ("pair_id", "audio1", "track1")
MULTI_NAME = "multi_qa.json"
LINES_PATTERN = "*.jsonl*"
N_TRACKS, N_QUESTIONS = 7_335, 58_680
ABOUT_WHOLE = re.compile(
    r"\b(?:how long|duration|length|running time|lasts?|lasting|minutes?|seconds|\d+[ -]?(?:second|min|sec|s)\b"
    r"|intro|introduction|outro|ending|beginning|(?:begins|starts|opens|ends|closes) (?:with|by|in|on)"
    r"|at the (?:start|end)|structure|structured|climax|fades? (?:in|out)|first half|second half)\b"
    r"|\b\d{1,2}:\d{2}\b",
    re.IGNORECASE,
)


class JamendoQaOptions(AdapterOptions):
    """`window_s`: tracks that are longer lose their questions about the whole; 0 keeps all, for tracks left whole."""

    window_s: float = Field(default=30.0, ge=0.0)


@dataclass(frozen=True)
class _Record:
    """One question of the corpus; `duration_s` as the annotation states it."""

    track: str
    question: str
    answer: str
    duration_s: float | None = None


class JamendoQa(CorpusAdapter):
    name = "jamendo_qa"
    domain = "music"
    licence = "audio: Creative Commons through Jamendo; questions: research use by the dataset's terms"
    version = 2
    layouts = (
        "data/questions/qa_v2.json",
        "questions/qa_v2.json",
        "qa_v2.json",
        f"data/questions/{LINES_PATTERN}",
        LINES_PATTERN,
    )
    options_type = JamendoQaOptions
    options: JamendoQaOptions

    def accepts(self, path: Path) -> bool:
        # Any corpus may have a .jsonl file: the first line has to be of the right shape and to name Jamendo.
        return path.suffix == ".json" or _is_lines_file(path)

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """One clip for each track with all its questions, held out by track; see `Adapter.clips`."""
        file = self.annotation(root)
        found.fact("questions", file.relative_to(root).as_posix())
        records_of: dict[str, list[_Record]] = {}
        for record in self._read(file, found):
            records_of.setdefault(audio_stem(record.track), []).append(record)
        note_count(found, "tracks", N_TRACKS, len(records_of))
        note_count(found, "questions", N_QUESTIONS, sum(map(len, records_of.values())))
        _note_multi(file.parent, found)
        audio = StemIndex.below(root)
        split_of = split_groups(records_of)
        for track, records in records_of.items():
            path = audio.find_by_rule({"track id": track}, found)
            questions = self._questions(track, records, path, found)
            yield source_clip(
                track,
                split_of[track],
                questions,
                path,
                looked_for=track,
                problem="" if questions else "no question is left: all are blank or about the whole of a long track",
                source_keys={"track": f"jamendo-{track}"},
            )

    def _read(self, file: Path, found: Findings) -> Iterator[_Record]:
        lines = [path for path in sorted(file.parent.glob(LINES_PATTERN)) if _is_lines_file(path)]
        if file.suffix == ".json":
            if lines:
                found.note(f"{lines[0].name} is left out, as {file.name} holds the same questions")
            return _records(read_json(file), file, found)
        found.count("answer shape", "files of FullSpectrum", len(lines))
        return chain.from_iterable(map(_lines, lines))

    def _questions(self, track: str, records: list[_Record], path: Path | None, found: Findings) -> list[Qa]:
        """The questions that can be answered from what is kept of the track, each once."""
        asked = list(dict.fromkeys((record.question, record.answer) for record in records))
        if len(asked) < len(records):
            found.count("question", "repeated, left out", len(records) - len(asked))
        about_whole = [bool(ABOUT_WHOLE.search(" ".join(pair))) for pair in asked]
        stays_whole = not any(about_whole) or self._stays_whole(records[0].duration_s, path)
        kept: list[Qa | None] = []
        for index, (pair, is_whole) in enumerate(zip(asked, about_whole, strict=True)):
            if is_whole and not stays_whole:
                found.count("question", "about the whole of a longer track, left out")
                continue
            qa = ask_native(track, WHOLE_TASK if is_whole else "qa_open", index, *pair)
            found.count("question", "blank, left out" if qa is None else qa.task)
            kept.append(qa)
        return present(*kept)

    def _stays_whole(self, duration_s: float | None, path: Path | None) -> bool:
        """Whether the track is known not to be cut. Its header is read only when the annotation states no length."""
        if not self.options.window_s:
            return True
        known_s = duration_s if duration_s is not None else _header_duration_s(path)
        return known_s is not None and known_s <= self.options.window_s


def _header_duration_s(path: Path | None) -> float | None:
    """Length by the file's header; None for a member of an archive and for what is no readable audio."""
    if path is None or not path.is_file():
        return None
    try:
        return float(soundfile.info(path).duration)
    except soundfile.LibsndfileError:
        return None


def _records(data: Any, file: Path, found: Findings) -> Iterator[_Record]:
    """Each question of `qa_v2.json`.

    Read are: a list of flat records, a list of tracks with `qa_pairs` or `qa`, a mapping from track to its pair or
    pairs, and each of them as the member `data`.
    """
    if isinstance(data, dict) and isinstance(data.get("data"), list | dict):
        data = data["data"]
        found.count("answer shape", "inside `data`")
    if isinstance(data, dict):
        found.count("answer shape", "mapping from track", len(data))
        data = [_as_track(track, value) for track, value in data.items()]
    if not isinstance(data, list):
        raise _unknown_shape(file, data)
    for record in data:
        if isinstance(record, dict) and any(key in record for key in TWO_TRACK_KEYS):
            found.count("question", "about two tracks, left out")
            continue
        track = _first(record, TRACK_KEYS) if isinstance(record, dict) else None
        if not isinstance(track, str):
            raise _unknown_shape(file, record)
        pairs = next((record[key] for key in PAIR_KEYS if key in record), None)
        found.count("answer shape", "one question a record" if pairs is None else "pairs of a track")
        for pair in [record] if pairs is None else pairs if isinstance(pairs, list) else [pairs]:
            yield _record(pair, track, record.get("duration"), file)


def _as_track(track: str, value: Any) -> dict[str, Any]:
    """One entry of a mapping from track, as a record: a list of pairs, one pair, or the track's own record."""
    if isinstance(value, dict) and any(key in value for key in PAIR_KEYS):
        return {**value, "track_id": track}
    return {"track_id": track, "qa_pairs": value}


def _record(pair: Any, track: str, duration_s: Any, file: Path) -> _Record:
    if not isinstance(pair, dict) or "question" not in pair or "answer" not in pair:
        raise _unknown_shape(file, pair)
    known = isinstance(duration_s, int | float) and not isinstance(duration_s, bool)
    return _Record(track, clean(pair["question"]), clean(pair["answer"]), float(duration_s) if known else None)


def _first(record: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((record[key] for key in keys if record.get(key)), None)


def _is_lines_file(path: Path) -> bool:
    """Whether `path` holds questions about Jamendo tracks; False, never an error, for anything else."""
    if is_litter(path.name) or not path.name.endswith((".jsonl", ".jsonl.gz")):
        return False
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            first = json.loads(file.readline(1 << 16).removeprefix(b"\xef\xbb\xbf"))
    except (OSError, EOFError, zlib.error, ValueError):
        return False
    if not isinstance(first, dict) or not {"path", "question", "answer"} <= first.keys():
        return False
    return "jamendo" in f"{path.name} {first.get('dataset')} {first['path']}".lower()


def _lines(path: Path) -> Iterator[_Record]:
    """Each question of a file of FullSpectrum."""
    for record in read_jsonl(path):
        if not isinstance(record.get("path"), str):
            raise _unknown_shape(path, record)
        yield _record(record, record["path"], record.get("duration"), path)


def _note_multi(folder: Path, found: Findings) -> None:
    """Questions about two tracks at once do not fit one clip; their file is left out, and counted if it can be read."""
    file = folder / MULTI_NAME
    if not file.is_file():
        return
    try:
        data = read_json(file)
    except CorpusError:
        found.note(f"{MULTI_NAME} is left out; it cannot be read")
        return
    records = data.get("data", data) if isinstance(data, dict) else data
    listed = records if isinstance(records, list) else []
    pairs = [record.get("qa_pairs") for record in listed if isinstance(record, dict)]
    n_questions = sum(len(several) if isinstance(several, list) else 1 for several in pairs)
    found.note(f"{MULTI_NAME} is left out: {n_questions} questions about two tracks at once")


def _unknown_shape(file: Path, record: Any) -> CorpusError:
    got = ", ".join(record) if isinstance(record, dict) else type(record).__name__
    return CorpusError(
        "an annotation file lacks a key",
        where={"file": file, "key": "one of " + ", ".join(TRACK_KEYS) + "; question; answer"},
        got=got or "(an empty record)",
        expected="records of question, answer and track_id, or of track_id and qa_pairs",
        hint="the file's schema is not published; please report this shape",
    )

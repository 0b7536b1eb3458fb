"""Jamendo-QA: eight machine-written questions for each of 7,335 whole tracks (hub `m-a-a-p/Jamendo-QA`, gated).

Layout as the authors' script writes it: `data/questions/qa_v2.json` and `data/audio/<track_id>.wav`. Several shapes of
the JSON are read, see `_records`, as its schema is documented nowhere. Track ids hold non-ASCII letters. No official
split: whole tracks are dealt by hash, 10 % val and 10 % test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.adapters.audio_index import StemIndex, audio_stem
from data_prep.adapters.base import SourceClip
from data_prep.adapters.common import CorpusAdapter, read_json, source_clip, split_groups
from data_prep.adapters.questions import ask_native, present
from pipeline.errors import CorpusError

TRACK_KEYS = ("track_id", "audio_path", "audio", "path")


class JamendoQa(CorpusAdapter):
    name = "jamendo_qa"
    domain = "music"
    licence = "audio: Creative Commons through Jamendo; questions: research use by the dataset's terms"
    layouts = ("data/questions/qa_v2.json", "questions/qa_v2.json", "qa_v2.json")

    def clips(self, root: Path) -> Iterator[SourceClip]:
        """One clip for each track with all its questions, held out by track; see `Adapter.clips`."""
        file = self.annotation(root)
        audio = StemIndex.below(root)
        questions_of: dict[str, list[tuple[str, str]]] = {}
        for track, question, answer in _records(read_json(file), file):
            questions_of.setdefault(audio_stem(track), []).append((question, answer))
        split_of = split_groups(questions_of)
        for track, questions in questions_of.items():
            native = (ask_native(track, "qa_open", index, *pair) for index, pair in enumerate(questions))
            yield source_clip(
                track,
                split_of[track],
                present(*native),
                audio.find(track),
                looked_for=track,
                source_keys={"track": f"jamendo-{track}"},
            )


def _records(data: Any, file: Path) -> Iterator[tuple[str, str, str]]:
    """(track, question, answer) of each question.

    Read are: a list of flat records, a list of tracks with `qa_pairs` or `qa`, a mapping from track to its list, and
    each of them as the member `data`.
    """
    if isinstance(data, dict) and isinstance(data.get("data"), list | dict):
        data = data["data"]
    if isinstance(data, dict):
        data = [{"track_id": track, "qa_pairs": pairs} for track, pairs in data.items()]
    if not isinstance(data, list):
        raise _unknown_shape(file, data)
    for record in data:
        track = next((record[key] for key in TRACK_KEYS if record.get(key)), None) if isinstance(record, dict) else None
        if not isinstance(track, str):
            raise _unknown_shape(file, record)
        for pair in record.get("qa_pairs") or record.get("qa") or [record]:
            if not isinstance(pair, dict) or "question" not in pair or "answer" not in pair:
                raise _unknown_shape(file, pair)
            yield track, pair["question"], pair["answer"]


def _unknown_shape(file: Path, record: Any) -> CorpusError:
    got = ", ".join(record) if isinstance(record, dict) else type(record).__name__
    return CorpusError(
        "an annotation file lacks a key",
        where={"file": file, "key": "one of " + ", ".join(TRACK_KEYS) + "; question; answer"},
        got=got or "(an empty record)",
        expected="records of question, answer and track_id, or of track_id and qa_pairs",
    )

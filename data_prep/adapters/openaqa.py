"""OpenAQA of LTU: 5.7 million questions about clips of AudioSet, VGGSound, FSD50K, Clotho and others; brings no audio.

Layout: `openaqa_5.6M.json`, one list of `{"instruction", "input", "audio_id", "dataset", "task", "output"}`, and the
user's own audio below the same folder. `audio_id` is a path on the authors' machines, so audio is found by its stem.

The file is read twice: once for where each clip's questions stand, then clip by clip. Memory holds one entry for each
clip and 16 bytes for each question, never their text. Train only.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_prep.adapters.audio_index import StemIndex, audio_stem
from data_prep.adapters.base import SourceClip
from data_prep.adapters.common import CorpusAdapter, clean, source_clip
from data_prep.adapters.jsonstream import read_object, stream_objects
from data_prep.adapters.questions import ask_native
from pipeline.errors import CorpusError
from pipeline.types import Qa

KEYS = ("instruction", "audio_id", "dataset", "task", "output")
CLOSED_PREFIX = "Closed-ended question: "
# LTU filters answers that refuse to answer; they teach a model to refuse.
REFUSALS = re.compile(
    r"(cannot|can't|can not|could not|not possible to|impossible to|unable to)( be)? "
    r"(determine|infer|tell|know|identif|ascertain)|not (specified|provided|mentioned) in the",
    re.IGNORECASE,
)
YOUTUBE_STEM = re.compile(r"Y?([\w-]{11})(_\d+(_\d+)?)?")


class OpenAqa(CorpusAdapter):
    name = "openaqa"
    domain = "sound"
    licence = "questions: research use (LTU); audio under the terms of AudioSet, VGGSound, FSD50K, Clotho and others"
    max_missing_fraction = 1.0  # each user has another part of the audio
    layouts = ("openaqa_5.6M.json", "openaqa*.json")

    def clips(self, root: Path) -> Iterator[SourceClip]:
        """One clip for each audio stem with all its questions, all train; see `Adapter.clips`."""
        file = self.annotation(root)
        audio = StemIndex.below(root)
        places = _places(file)
        with open(file, "rb") as handle:
            for stem, spans in places.items():
                questions, source, n_refusals = _questions(handle, stem, spans)
                yield source_clip(
                    stem,
                    "train",
                    questions,
                    audio.find(stem),
                    looked_for=stem,
                    source_keys=_source_keys(source, stem),
                    meta={"part": source, "refusals_left_out": n_refusals},
                )


def _places(file: Path) -> dict[str, array[int]]:
    """Stem -> offset, size, offset, size ... of its questions in the file, in file order."""
    places: dict[str, array[int]] = {}
    for item in stream_objects(file):
        missing = [key for key in KEYS if key not in item.value]
        if missing:
            raise CorpusError(
                "an annotation file lacks a key",
                where={"file": file, "byte": item.offset, "key": ", ".join(missing)},
                got=", ".join(item.value),
                expected=", ".join(KEYS),
            )
        places.setdefault(audio_stem(str(item.value["audio_id"])), array("Q")).extend((item.offset, item.size))
    return places


def _questions(handle: BinaryIO, stem: str, spans: array[int]) -> tuple[list[Qa], str, int]:
    """(questions, name of the source part, answers left out as refusals); rows doubled on purpose count once."""
    found: dict[tuple[str, str], Qa] = {}
    source, n_refusals = "", 0
    for index in range(len(spans) // 2):
        row = read_object(handle, spans[2 * index], spans[2 * index + 1])
        source = source or str(row["dataset"])
        answer = clean(row["output"])
        if REFUSALS.search(answer):
            n_refusals += 1
            continue
        question = clean(row["instruction"]).removeprefix(CLOSED_PREFIX)
        qa = ask_native(stem, _task(str(row["task"])), index, question, answer)
        if qa is not None:
            found.setdefault((qa.question, qa.answer), qa)
    return list(found.values()), source, n_refusals


def _task(task: str) -> str:
    if task == "caption":
        return "caption"
    return "qa_open" if task.startswith("open") else "qa_closed"


def _source_keys(source: str, stem: str) -> dict[str, str]:
    """Name of the recording in the collection that the part comes from, as the other corpora name it."""
    part = source.lower()
    if part.startswith(("as_", "audioset", "audiocaps", "vggsound")):
        match = YOUTUBE_STEM.fullmatch(stem)
        return {"youtube": match[1]} if match else {}
    if part.startswith(("fsd50k", "freesound")):
        return {"freesound": stem} if stem.isdigit() else {}
    if part.startswith("clotho"):
        return {"clotho": stem}
    return {}

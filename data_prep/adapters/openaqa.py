"""OpenAQA of LTU: 5.7 million questions about clips of AudioSet, VGGSound, FSD50K, Clotho and others; brings no audio.

Layout: `openaqa_5.6M.json` (also the toy set, the open-ended and closed-ended subsets, and OpenASQA), one list of
`{"instruction", "input", "audio_id", "dataset", "task", "output"}`, and the user's own audio below the same folder or
where a path map says. `audio_id` is a path on the authors' machines, so audio is found by its stem (`openaqa_audio`).

The file is read twice: once for where each clip's questions stand, then clip by clip. Memory holds one entry for each
clip and 16 bytes for each question, never all their text. Train only: parts that are the validation or test split of
their own corpus are black-listed, as the other adapters hold them out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data_prep.adapters.audio_index import audio_stem
from data_prep.adapters.base import AdapterOptions, Findings, SourceClip
from data_prep.adapters.common import CorpusAdapter, Names, clean, note_count, require_file, source_clip
from data_prep.adapters.jsonstream import JsonItem, ObjectIndex, stream_objects
from data_prep.adapters.openaqa_audio import YOUTUBE_STEM, OpenAqaAudio
from data_prep.adapters.path_map import PathMap
from data_prep.adapters.questions import ask_native
from pipeline.errors import ConfigError, CorpusError
from pipeline.types import Qa

KEYS = ("instruction", "audio_id", "dataset", "task", "output")
N_QUESTIONS = {"openaqa_5.6M.json": 5_681_708}
CLOSED_PREFIX = "Closed-ended question: "
# LTU filters answers that refuse to answer; they teach a model to refuse.
REFUSALS = re.compile(
    r"(cannot|can't|can not|could not|not possible to|impossible to|unable to)( be)? "
    r"(determine|infer|tell|know|identif|ascertain)|not (specified|provided|mentioned) in the",
    re.IGNORECASE,
)
# Names of parts -> collection that they are taken from. Within one, a file stem names one recording.
COLLECTIONS = (
    (re.compile(r"as_?\d|as_strong|audio_?set|audio_?caps"), "audioset"),
    (re.compile(r"vgg"), "vggsound"),
    (re.compile(r"fsd"), "fsd50k"),
    (re.compile(r"freesound"), "freesound"),
    (re.compile(r"sound_?bible"), "soundbible"),
    (re.compile(r"clotho"), "clotho"),
    (re.compile(r"libritts"), "libritts"),
    (re.compile(r"iemocap"), "iemocap"),
    (re.compile(r"fma"), "fma"),
    (re.compile(r"mosei"), "mosei"),
)
EVAL_PART = re.compile(r"(^|[_-])(val|valid|validation|test|eval|evaluation)($|[_-])")
N_PREFIXES = 20
_PREFIX_FOLDERS = 6


class OpenAqaOptions(AdapterOptions):
    """Choices for OpenAQA."""

    file: str = Field("", description="name of the JSON file in the corpus folder, when there are several")
    datasets: Names = Field((), description="parts to take (as_2m,clotho*), or with a minus to leave out (-vggsound*)")
    eval_parts: Literal["blacklisted", "left_out"] = Field(
        "blacklisted", description="clips of audiocaps_val and the like: in the quarantine table, or only counted"
    )
    refusals: Literal["left_out", "kept"] = Field("left_out", description="answers such as 'it cannot be determined'")
    path_map: Path | None = Field(None, description="YAML or CSV file: pattern of the paths in the JSON -> own folder")


class OpenAqa(CorpusAdapter):
    name = "openaqa"
    domain = "sound"
    licence = "questions: research use (LTU); audio under the terms of AudioSet, VGGSound, FSD50K, Clotho and others"
    version = 2
    max_missing_fraction = 1.0  # each user has another part of the audio
    layouts = ("openaqa_5.6M.json", "openaqa*.json", "openasqa*.json", "all_open_qa.json", "all_closed_qa.json")
    options_type = OpenAqaOptions
    options: OpenAqaOptions

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """One clip for each recording with all its questions, all train; see `Adapter.clips`.

        Raises:
            ConfigError: the path map is wrong, or the option `datasets` names a part that is not there.
        """
        name = self.options.file
        file = require_file(root / name, self.name, root, name) if name else self.annotation(root)
        found.fact("annotation file", file.name)
        path_map = PathMap.read(self.options.path_map) if self.options.path_map else PathMap()
        recordings = _read_recordings(file, self.options, found)
        audio = OpenAqaAudio(root, path_map, recordings.shared_stems, found)
        prefixes: Counter[str] = Counter()
        n_left_out = 0
        for rows in recordings.index.groups():
            recording = _recording(rows[0])
            blacklisted = recordings.blacklisted(recording)
            if blacklisted and self.options.eval_parts == "left_out":
                n_left_out += 1
                continue
            path = str(rows[0]["audio_id"])
            place = audio.find(recording.collection, recording.stem, path, found)
            if place is None:
                prefixes[_prefix(path)] += 1
            yield self._clip(recording, rows, place, blacklisted, found)
        if n_left_out:
            found.note(f"clips of validation and test parts, left out: {n_left_out}")
        _report_prefixes(prefixes, found)

    def _clip(
        self, recording: _Recording, rows: list[dict[str, Any]], audio: Path | None, blacklisted: str, found: Findings
    ) -> SourceClip:
        questions, n_refusals = self._questions(recording.id, rows, found)
        meta: dict[str, Any] = {"part": str(rows[0]["dataset"]), "refusals_left_out": n_refusals}
        # OpenASQA gives the language model what is said in the clip. Ours must hear it: it is no part of the question.
        transcript = next((text for row in rows if (text := clean(row.get("input")))), "")
        if transcript:
            found.count("transcripts", "kept apart from the question")
            meta["transcript"] = transcript
        return source_clip(
            recording.id,
            "train",
            questions,
            audio,
            looked_for=recording.stem,
            problem="all its answers are refusals" if n_refusals and not questions else "",
            blacklisted=blacklisted,
            source_keys=recording.source_keys or {"openaqa": recording.id},
            meta=meta,
        )

    def _questions(self, clip_id: str, rows: list[dict[str, Any]], found: Findings) -> tuple[list[Qa], int]:
        """(questions, answers left out as refusals); rows doubled on purpose count once."""
        kept: dict[tuple[str, str], Qa] = {}
        n_refusals = 0
        for index, row in enumerate(rows):
            answer = clean(row["output"])
            if self.options.refusals == "left_out" and REFUSALS.search(answer):
                n_refusals += 1
                continue
            question = clean(row["instruction"]).removeprefix(CLOSED_PREFIX)
            qa = ask_native(clip_id, _task(str(row["task"])), index, question, answer)
            if qa is None:
                found.count("rows left out", "blank question or answer")
            elif kept.setdefault((qa.question, qa.answer), qa) is not qa:
                found.count("rows left out", "the same question and answer again")
        if n_refusals:
            found.count("rows left out", "answer is a refusal", n_refusals)
        return list(kept.values()), n_refusals


@dataclass(frozen=True)
class _Recording:
    """A recording as its rows name it; `collection` is "" for a part that is not known, whose ids are whole paths."""

    id: str
    collection: str
    stem: str

    @property
    def source_keys(self) -> dict[str, str]:
        """Its name in the collection that it is taken from, as the other corpora name it."""
        match self.collection:
            case "audioset" | "vggsound" | "mosei":
                found = YOUTUBE_STEM.fullmatch(self.stem)
                return {"youtube": found[1]} if found else {}
            case "fsd50k" | "freesound":
                return {"freesound": self.stem} if self.stem.isdigit() else {}
            case "iemocap":
                return {"dialogue": f"iemocap-{self.stem.rpartition('_')[0]}"}
            case "clotho" | "libritts" | "soundbible":
                return {self.collection: self.stem}
        return {}


def _recording(row: dict[str, Any]) -> _Recording:
    path = str(row["audio_id"])
    stem = audio_stem(path)
    # The names of the parts are known by hearsay; a folder of the path may say what an unknown one does not.
    names = (str(row["dataset"]), *reversed(path.split("/")[:-1]))
    collection = next((known for name in names if (known := _collection(name))), "")
    if not collection:
        return _Recording(path.strip("/"), "", stem)
    return _Recording(f"{collection}/{stem}", collection, stem)


@lru_cache(maxsize=10_000)
def _collection(name: str) -> str:
    return next((collection for pattern, collection in COLLECTIONS if pattern.match(name.lower())), "")


@dataclass
class _Recordings:
    """All recordings of the file in order of their first row, without any text."""

    index: ObjectIndex
    n_rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    shared_stems: set[str] = field(default_factory=set)
    held_out: dict[str, str] = field(default_factory=dict)
    held_out_keys: dict[tuple[str, str], str] = field(default_factory=dict)

    def hold_out(self, recording: _Recording, part: str) -> None:
        self.held_out[recording.id] = part
        self.held_out_keys |= dict.fromkeys(recording.source_keys.items(), part)

    def blacklisted(self, recording: _Recording) -> str:
        """Why a recording must not be trained on; "" when it may."""
        parts = [self.held_out_keys[key] for key in recording.source_keys.items() if key in self.held_out_keys]
        part = self.held_out.get(recording.id) or next(iter(parts), "")
        return f"{part} holds it, which is no training part" if part else ""


def _read_recordings(file: Path, options: OpenAqaOptions, found: Findings) -> _Recordings:
    """First pass: which rows belong to which recording. Parts that `options` leaves out are not among them."""
    recordings = _Recordings(ObjectIndex(file))
    numbers: dict[str, int] = {}
    taken: dict[str, bool] = {}
    held_out: dict[str, bool] = {}
    for item in stream_objects(file):
        row = _checked(item, file)
        part = str(row["dataset"])
        recordings.n_rows[part, str(row["task"])] += 1
        if part not in taken:
            taken[part] = _is_taken(part, options.datasets)
            held_out[part] = EVAL_PART.search(part.lower()) is not None
        recording = _recording(row)
        if held_out[part]:  # also when the part itself is not taken: other parts may hold its recordings
            recordings.hold_out(recording, part)
        if taken[part]:
            recordings.index.add(numbers.setdefault(recording.id, len(numbers)), item)
    seen: set[str] = set()
    for name in numbers:
        stem = audio_stem(name)
        (recordings.shared_stems if stem in seen else seen).add(stem)
    _report_rows(file, recordings.n_rows, taken, options, found)
    return recordings


def _checked(item: JsonItem, file: Path) -> dict[str, Any]:
    missing = [key for key in KEYS if key not in item.value]
    if missing:
        raise CorpusError(
            "an annotation file lacks a key",
            where={"file": file, "byte": item.offset, "key": ", ".join(missing)},
            got=", ".join(item.value),
            expected=", ".join(KEYS),
            hint="this adapter reads the six-key list of LTU's OpenAQA and OpenASQA",
        )
    return item.value


def _is_taken(part: str, chosen: tuple[str, ...]) -> bool:
    wanted = [name for name in chosen if not name.startswith("-")]
    unwanted = [name[1:] for name in chosen if name.startswith("-")]
    is_wanted = not wanted or any(fnmatchcase(part, name) for name in wanted)
    return is_wanted and not any(fnmatchcase(part, name) for name in unwanted)


def _report_rows(
    file: Path, n_rows: Counter[tuple[str, str]], taken: dict[str, bool], options: OpenAqaOptions, found: Findings
) -> None:
    for (part, task), n in n_rows.items():
        found.count("rows by dataset", part, n)
        found.count("rows by task", task, n)
        if not _collection(part):
            found.count("rows of an unknown dataset, known by their path", part, n)
    if file.name in N_QUESTIONS:
        note_count(found, f"questions in {file.name}", N_QUESTIONS[file.name], n_rows.total())
    left_out = sorted(part for part, is_taken in taken.items() if not is_taken)
    if left_out:
        found.note(f"left out by the option datasets: {', '.join(left_out)}")
    unknown = [name for name in options.datasets if not any(fnmatchcase(part, name.lstrip("-")) for part in taken)]
    if unknown:
        raise ConfigError(
            "a part of OpenAQA is not in the file",
            where={"option": "openaqa.datasets", "file": file},
            got=", ".join(unknown),
            expected=", ".join(sorted(taken)),
        )
    held_out = sorted(part for part in taken if EVAL_PART.search(part.lower()))
    if held_out:
        found.note(f"never trained on, as they are validation or test parts: {', '.join(held_out)}")


def _report_prefixes(prefixes: Counter[str], found: Findings) -> None:
    for prefix, n in prefixes.most_common(N_PREFIXES):
        found.count("clips without audio, by folder in the annotation", prefix, n)
    if len(prefixes) > N_PREFIXES:
        found.note(f"clips without audio are of {len(prefixes) - N_PREFIXES} more folders")
    if prefixes:
        found.note(f"{prefixes.total()} clips have no audio here; a path map says where a folder's audio lies")


def _prefix(path: str) -> str:
    folders = path.rpartition("/")[0].split("/")
    return "/".join(folders[:_PREFIX_FOLDERS]) + ("/..." if len(folders) > _PREFIX_FOLDERS else "/")


def _task(task: str) -> str:
    if task == "caption":
        return "caption"
    if task.lower() == "asr":
        return "transcript"
    return "qa_open" if task.startswith("open") else "qa_closed"

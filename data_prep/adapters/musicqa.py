"""MusicQA of MU-LLaMA: machine-written questions about music clips (hub `mu-llama/MusicQA`).

Layout: `audios/<6 digits>.wav`, or packed in `audios.zip`, and `{Pretrain,Finetune,Eval}MusicQA.json`, lists of
`{"audio_name", "conversation": [{"from": "human", "value"}, {"from": "gpt", "value"}]}`, several for each audio.
Pretrain (MusicCaps) and Finetune (MagnaTagATune) are train, Eval (MTG-Jamendo) is test; there is no val. Who generates
the corpus again gets `MusicQA.json` (both train parts) and tables of the same content, with `;` between the columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.adapters.audio_index import StemIndex, audio_stem
from data_prep.adapters.base import Findings, SourceClip
from data_prep.adapters.common import CorpusAdapter, note_count, read_csv, read_json, source_clip, with_audio
from data_prep.adapters.questions import ask_native, present
from pipeline.errors import CorpusError


@dataclass(frozen=True)
class Part:
    """One part: its file, its split, and the files that stand in for it, the first that is there."""

    name: str
    split: str
    files: tuple[str, ...]


PARTS = (
    Part("PretrainMusicQA", "train", ("PretrainMusicQA.json", "MusicCapsAQA.csv", "MusicCaps/MusicCapsAQA.csv")),
    Part("FinetuneMusicQA", "train", ("FinetuneMusicQA.json", "MTT_AQA.csv", "MTT/MTT_AQA.csv")),
    Part("EvalMusicQA", "test", ("EvalMusicQA.json", "MTG_AQA.csv", "MTG/MTG_AQA.csv")),
)
# Both train parts in one, where neither is there by itself.
BOTH_TRAIN_PARTS = Part("MusicQA", "train", ("MusicQA.json",))
N_PUBLISHED = {"train": (12_542, 112_878), "test": (560, 5_040)}
QUESTIONS = (
    "Describe the audio",
    "Describe the audio in detail",
    "What do you hear in the audio?",
    "What can be inferred from the audio?",
)
# MusicCaps' own file names, which tables generated again keep; the numbered names of the hub's copy hide the id.
MUSICCAPS_NAME = re.compile(r"\[([\w-]{11})\]-\[\d+-\d+\]")

Pair = tuple[str, str] | None


class MusicQa(CorpusAdapter):
    name = "musicqa"
    domain = "music"
    licence = "MIT (questions); audio under the terms of MusicCaps, MagnaTagATune and MTG-Jamendo"
    version = 2
    layouts = tuple(file for part in (*PARTS, BOTH_TRAIN_PARTS) for file in part.files)

    def find(self, root: Path) -> Path | None:
        annotations = super().find(root)
        return None if annotations is None else with_audio(annotations, root, "audios", "audios.zip")

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """One clip for each audio file with all its conversations; see `Adapter.clips`."""
        files = self._files(root, found)
        audio = StemIndex.below(root, found=found)
        n_of = {split: [0, 0] for split in N_PUBLISHED}
        for part, file in files.items():
            for stem, pairs in _pairs_by_audio(file).items():
                clip = _clip(part, stem, pairs, audio, found)
                n_of[part.split][0] += 1
                n_of[part.split][1] += len(clip.qa)
                yield clip
        for split, expected in N_PUBLISHED.items():
            for what, n_expected, n in zip(("audio files", "questions"), expected, n_of[split], strict=True):
                note_count(found, f"{what} in {split}", n_expected, n)

    def _files(self, root: Path, found: Findings) -> dict[Part, Path]:
        files: dict[Part, Path] = {}
        nested = [root, root / "MusicQA"]  # the authors' repository keeps the JSON files in a folder below the audio
        for part in (*PARTS, BOTH_TRAIN_PARTS):
            if part is BOTH_TRAIN_PARTS and any(other.split == "train" for other in files):
                continue
            choices = [folder / name for folder in nested for name in part.files]
            file = next((path for path in choices if path.is_file()), None)
            if file is not None:
                files[part] = file
                found.fact(part.name, str(file.relative_to(root)))
        if not files:
            self.annotation(root)
        for part in PARTS:
            if part not in files and not (part.split == "train" and BOTH_TRAIN_PARTS in files):
                found.note(f"{part.name} is not there: its {part.split} clips are left out")
        if any(part in (PARTS[0], BOTH_TRAIN_PARTS) and file.suffix == ".json" for part, file in files.items()):
            found.note("numbered file names hide the YouTube ids of MusicCaps: overlap with AudioSet cannot be checked")
        return files


def _clip(part: Part, stem: str, pairs: list[Pair], audio: StemIndex, found: Findings) -> SourceClip:
    questions = []
    for index, pair in enumerate(pairs):
        native = ask_native(stem, "qa_open", index, *pair) if pair else None
        found.count("conversations", "used" if native else "blank text" if pair else "not one question and one answer")
        questions += present(native)
    has_other_turns = any(pair is None for pair in pairs)
    musiccaps = MUSICCAPS_NAME.fullmatch(stem)
    return source_clip(
        stem,
        part.split,
        questions,
        audio.find(stem),
        looked_for=f"{stem}.wav",
        problem="a conversation is not one question and one answer" if has_other_turns and not questions else "",
        source_keys={"youtube": musiccaps[1]} if musiccaps else {"track": f"musicqa-{stem}"},
        meta={"part": part.name},
    )


def _pairs_by_audio(file: Path) -> dict[str, list[Pair]]:
    """Audio stem -> its (question, answer) pairs; None for a record that is no such pair."""
    pairs: dict[str, list[Pair]] = {}
    for name, pair in _table_pairs(file) if file.suffix == ".csv" else _json_pairs(file):
        pairs.setdefault(audio_stem(name.strip()), []).append(pair)
    return pairs


def _json_pairs(file: Path) -> Iterator[tuple[str, Pair]]:
    data = read_json(file)
    if not isinstance(data, list):
        raise CorpusError(
            "an annotation file has another shape", where={"file": file}, got=type(data).__name__, expected="a list"
        )
    for number, record in enumerate(data):
        if not isinstance(record, dict) or not isinstance(record.get("audio_name"), str):
            raise CorpusError(
                "an annotation file lacks a key",
                where={"file": file, "record": number, "key": "audio_name"},
                got=", ".join(record) if isinstance(record, dict) else type(record).__name__,
                expected="audio_name, conversation",
                hint="download it again from mu-llama/MusicQA",
            )
        yield record["audio_name"], _pair(record.get("conversation"))


def _pair(turns: Any) -> Pair:
    """(question, answer) of a conversation, which has one turn of each; None for any other."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return None
    if [turn.get("from") for turn in turns] != ["human", "gpt"]:
        return None
    question, answer = (str(turn.get("value") or "") for turn in turns)
    return question, answer


def _table_pairs(file: Path) -> Iterator[tuple[str, Pair]]:
    """Rows of a table that the authors' scripts write: four fixed questions, and cells `Q:...<TAB>A:...`."""
    for row in read_csv(file, ("audio_name", *QUESTIONS), delimiter=";"):
        yield from ((row["audio_name"], (question, row[question])) for question in QUESTIONS)
        for name, cell in row.items():
            if name and name.startswith("OpenQA"):
                question, tab, answer = cell.partition("\t")
                yield row["audio_name"], (question.removeprefix("Q:"), answer.removeprefix("A:")) if tab else None

"""IEMOCAP: acted dialogues of ten speakers in five sessions, each utterance with an emotion (USC SAIL, by request).

Layout: `Session{1..5}/dialog/EmoEvaluation/<dialog>.txt` (Latin-1) with lines
`[start - end]<TAB>utterance<TAB>label<TAB>[valence, activation, dominance]`, `dialog/transcriptions/<dialog>.txt`, and
`sentences/wav/<dialog>/<utterance>.wav`.

Kept are the four classes that papers use, 5,531 utterances: angry, happy (with excited), sad, neutral. No official
split: whole sessions, so that no speaker is in two splits; 1-3 train, 4 val, 5 test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.adapters.audio_index import StemIndex, is_litter
from data_prep.adapters.base import SourceClip
from data_prep.adapters.common import CorpusAdapter, clean, folders, source_clip
from data_prep.adapters.questions import GENDERS, ask, ask_level, join_words, present
from pipeline.errors import CorpusError

LABELS = {"ang": "angry", "hap": "happy", "exc": "happy", "sad": "sad", "neu": "neutral"}
OPTIONS = join_words(["angry", "happy", "sad", "neutral"], "or")
EVALUATION = re.compile(
    r"^\[(\d+\.\d+)\s*-\s*(\d+\.\d+)\]\t(\S+)\t(\w+)\t\[([\d.]+),\s*([\d.]+),\s*([\d.]+)\]", re.MULTILINE
)
TRANSCRIPT = re.compile(r"^(\S+) \[[\d.]+-[\d.]+\]:[ \t]*(.*)$", re.MULTILINE)
UTTERANCE = re.compile(r"Ses0\d[FM]_\w+_([FM])\d{3}")


class Iemocap(CorpusAdapter):
    name = "iemocap"
    domain = "speech"
    licence = "USC SAIL licence by signed request: academic research, no redistribution"
    split_of = {1: "train", 2: "train", 3: "train", 4: "val", 5: "test"}  # noqa: RUF012 -- constant

    def find(self, root: Path) -> Path | None:
        return next(
            (folder for folder in folders(root) if any(_evaluations(folder, n).is_dir() for n in self.split_of)), None
        )

    def clips(self, root: Path) -> Iterator[SourceClip]:
        """One clip for each utterance of a kept emotion, split by session; see `Adapter.clips`."""
        for session, split in self.split_of.items():
            folder = _evaluations(root, session)
            if not folder.is_dir():
                raise CorpusError(
                    "a session of the corpus is absent",
                    where={"corpus": self.name, "looked for": folder.relative_to(root), "below": root},
                )
            yield from _session(root, session, split)


def _evaluations(root: Path, session: int) -> Path:
    return root / f"Session{session}" / "dialog" / "EmoEvaluation"


def _session(root: Path, session: int, split: str) -> Iterator[SourceClip]:
    audio = StemIndex.below(root / f"Session{session}" / "sentences" / "wav")
    transcripts = _transcripts(root / f"Session{session}" / "dialog")
    for file in _text_files(_evaluations(root, session)):
        for match in EVALUATION.finditer(file.read_text(encoding="latin-1")):
            utterance, label = match[3], match[4]
            known = UTTERANCE.fullmatch(utterance)
            if known is None or label not in LABELS:
                continue
            yield source_clip(
                utterance,
                split,
                present(
                    ask(utterance, "emotion", LABELS[label]),
                    ask(utterance, "emotion", LABELS[label], pool="emotion_choice", options=OPTIONS),
                    ask_level(utterance, "gender", known[1], GENDERS),
                ),
                audio.find(utterance),
                looked_for=f"{utterance}.wav",
                # "Ses01F" only says which actor wears the markers; the speaker is the letter of the last field.
                source_keys={
                    "session": f"iemocap-{session}",
                    "dialog": f"iemocap-{file.stem}",
                    "speaker": f"iemocap-{session}{known[1]}",
                },
                meta={"label": label, "transcript": transcripts.get(utterance, "")},
            )


def _text_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.txt") if path.is_file() and not is_litter(path.name))


def _transcripts(dialog: Path) -> dict[str, str]:
    """What is said in each utterance; some copies spell the folder with a capital, some leave it out."""
    files = [file for name in ("transcriptions", "Transcriptions") for file in _text_files(dialog / name)]
    found = (match for file in files for match in TRANSCRIPT.finditer(file.read_text(encoding="latin-1")))
    return {match[1]: clean(match[2]) for match in found}

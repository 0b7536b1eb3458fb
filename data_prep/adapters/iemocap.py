"""IEMOCAP: acted dialogues of ten speakers in five sessions, each utterance with an emotion (USC SAIL, by request).

Layout: `Session{1..5}/dialog/EmoEvaluation/<dialog>.txt` (Latin-1) with lines
`[start - end]<TAB>utterance<TAB>label<TAB>[valence, activation, dominance]`, `dialog/transcriptions/<dialog>.txt`, and
`sentences/wav/<dialog>/<utterance>.wav`.

No official split. One session is test (the fifth, as in most papers), the others train. Both speakers of a session talk
in every dialogue, so sessions are never split: the source key `session` makes the planner hold out a whole one as val.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from data_prep.adapters.audio_index import StemIndex, is_litter
from data_prep.adapters.base import AdapterOptions, Findings, SourceClip
from data_prep.adapters.common import CorpusAdapter, clean, folders, note_count, source_clip
from data_prep.adapters.questions import GENDERS, ask, ask_level, choices, present
from pipeline.errors import CorpusError

SESSIONS = range(1, 6)
N_UTTERANCES, N_FOUR_CLASSES, N_DIALOGS = 10_039, 5_531, 151
EMOTIONS = {
    "ang": "angry",
    "hap": "happy",
    "exc": "excited",
    "sad": "sad",
    "neu": "neutral",
    "fru": "frustrated",
    "fea": "fearful",
    "sur": "surprised",
    "dis": "disgusted",
}
FOUR = ("ang", "hap", "sad", "neu")
# xxx: the annotators disagree; oth: an emotion that is not on their list.
UNUSABLE = ("xxx", "oth")
EVALUATION = re.compile(
    r"^\[(\d+\.\d+)\s*-\s*(\d+\.\d+)\]\t(\S+)\t(\w+)\t\[([\d.]+),\s*([\d.]+),\s*([\d.]+)\]", re.MULTILINE
)
TRANSCRIPT = re.compile(r"^(\S+) \[[\d.]+-[\d.]+\]:[ \t]*(.*)$", re.MULTILINE)
UTTERANCE = re.compile(r"Ses0\d[FM]_\w+_([FM])\d{3}")


class IemocapOptions(AdapterOptions):
    """`test_session`: the session for testing; the others are train.

    `labels`: "four" keeps angry, happy, sad and neutral; "all" keeps nine, all but `xxx` and `oth`.
    `merge_excited`: excited counts as happy, as in the published 5,531 utterances; without it, "four" leaves it out.
    `transcript`: ask for the words too.
    """

    test_session: int = Field(default=5, ge=1, le=5)
    labels: Literal["four", "all"] = "four"
    merge_excited: bool = True
    transcript: bool = False

    def words(self) -> dict[str, str]:
        """Answer of each label that is kept."""
        kept = dict(EMOTIONS) if self.labels == "all" else {label: EMOTIONS[label] for label in FOUR}
        return {**kept, "exc": EMOTIONS["hap"]} if self.merge_excited else kept


class Iemocap(CorpusAdapter):
    name = "iemocap"
    domain = "speech"
    licence = "USC SAIL licence by signed request: academic research, no redistribution"
    version = 2
    options_type = IemocapOptions
    options: IemocapOptions

    def find(self, root: Path) -> Path | None:
        """The folder of the sessions; one of them is enough, so that `clips` can name one that is lost."""
        return next(
            (folder for folder in folders(root) if any(_evaluations(folder, n).is_dir() for n in SESSIONS)), None
        )

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """One clip for each utterance of a kept emotion, split by session; see `Adapter.clips`."""
        n_kept = 0
        for session in SESSIONS:
            folder = _evaluations(root, session)
            if not folder.is_dir():
                raise CorpusError(
                    "a session of the corpus is absent",
                    where={"corpus": self.name, "looked for": folder.relative_to(root), "below": root},
                    expected="Session1 to Session5",
                    hint="unpack the whole of IEMOCAP_full_release.tar.gz",
                )
            for clip in self._session(root, session, found):
                n_kept += 1
                yield clip
        _compare(found, n_kept, self.options)

    def _session(self, root: Path, session: int, found: Findings) -> Iterator[SourceClip]:
        audio = StemIndex.below(root / f"Session{session}" / "sentences" / "wav")
        transcripts = _transcripts(root / f"Session{session}" / "dialog")
        words = self.options.words()
        for file in _text_files(_evaluations(root, session)):
            found.count("dialogs", f"session {session}")
            for match in EVALUATION.finditer(_latin1(file)):
                utterance, label = match[3], match[4]
                known = UTTERANCE.fullmatch(utterance)
                if known is None:
                    found.count("utterance", "name without speaker and number")
                    continue
                found.count("label", label)
                if label not in words:
                    continue
                said = transcripts.get(utterance, "")
                found.count("transcript", "found" if said else "missing")
                qa = (
                    ask(utterance, "emotion", words[label]),
                    ask(
                        utterance,
                        "emotion",
                        words[label],
                        pool="emotion_choice",
                        options=choices(utterance, words[label], list(dict.fromkeys(words.values()))),
                    ),
                    ask_level(utterance, "gender", known[1], GENDERS),
                    ask(utterance, "transcript", said) if self.options.transcript else None,
                )
                yield source_clip(
                    utterance,
                    "test" if session == self.options.test_session else "train",
                    present(*qa),
                    audio.find(utterance),
                    looked_for=f"{utterance}.wav",
                    # "Ses01F" only says which actor wears the markers; the speaker is the letter of the last field.
                    source_keys={
                        "session": f"iemocap-{session}",
                        "dialogue": f"iemocap-{file.stem}",
                        "speaker": f"iemocap-{session}{known[1]}",
                    },
                    meta={"label": label, "transcript": said},
                )


def _compare(found: Findings, n_kept: int, options: IemocapOptions) -> None:
    """What was read against the published counts."""
    labels = found.counts.get("label", Counter[str]())
    note_count(found, "labelled utterances", N_UTTERANCES, sum(labels.values()))
    note_count(found, "dialogs", N_DIALOGS, sum(found.counts.get("dialogs", Counter[str]()).values()))
    if options.labels == "four" and options.merge_excited:
        note_count(found, "utterances of the four classes", N_FOUR_CLASSES, n_kept)
    unknown = sorted(label for label in labels if label not in EMOTIONS and label not in UNUSABLE)
    if unknown:
        found.note(f"labels that the corpus does not document, left out: {', '.join(unknown)}")


def _evaluations(root: Path, session: int) -> Path:
    return root / f"Session{session}" / "dialog" / "EmoEvaluation"


def _text_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.txt") if path.is_file() and not is_litter(path.name))


def _latin1(file: Path) -> str:
    """Text of the release is Latin-1; editors that re-saved a file may have put a byte order mark before it."""
    return file.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("latin-1").replace("\r\n", "\n")


def _transcripts(dialog: Path) -> dict[str, str]:
    """What is said in each utterance; some copies spell the folder with a capital, some leave it out."""
    files = [file for name in ("transcriptions", "Transcriptions") for file in _text_files(dialog / name)]
    found = (match for file in files for match in TRANSCRIPT.finditer(_latin1(file)))
    return {match[1]: clean(match[2]) for match in found}

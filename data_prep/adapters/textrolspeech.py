"""TextrolSpeech: style prompts and attributes of read and acted voices (github.com/jishengpeng/TextrolSpeech).

Layout: `caption/random_{train,test}.csv` with `item_name, gender, pitch, tempo (or dur), energy, emotion, style_prompt`
and, in some copies, `wav_fp`; audio in `libritts/`, `VCTK-Corpus/` and `emotion_dataset/<corpus>/...`. The item name
of an acted clip is its path inside `emotion_dataset/` with `-` for `/`: `MEAD-M026-audio-surprised-level_1-013`.
Names such as RAVDESS' `03-01-04` hold hyphens of their own, so paths are turned into names, never names into paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_prep.adapters.audio_index import StemIndex, audio_below, audio_stem
from data_prep.adapters.base import SourceClip
from data_prep.adapters.common import CorpusAdapter, read_csv, require_file, source_clip
from data_prep.adapters.questions import ask_level, ask_voice, present

COLUMNS = ("item_name", "gender", "pitch", "energy", "emotion", "style_prompt")
EMOTIONS = {word: word for word in ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")}
# Folders that may stand between the corpus' folder and the one that item names start from.
MAX_LEADING_FOLDERS = 3


class TextrolSpeech(CorpusAdapter):
    name = "textrolspeech"
    domain = "speech"
    licence = "MIT (text); audio under the research licences of its corpora, LibriTTS and VCTK CC BY 4.0"
    layouts = ("caption/random_train.csv", "random_train.csv")

    def clips(self, root: Path) -> Iterator[SourceClip]:
        train = self.annotation(root)
        test = require_file(train.with_name("random_test.csv"), self.name, root, "random_test.csv")
        audio = _Audio(root)
        for split, table in (("train", train), ("test", test)):
            for row in read_csv(table, COLUMNS):
                yield _clip(row, split, audio)


def _clip(row: dict[str, str], split: str, audio: _Audio) -> SourceClip:
    item = row["item_name"].strip()
    # `dur` is a class of tempo too: the authors' script writes "high" for few seconds a word.
    tempo = row.get("tempo") or row.get("dur") or ""
    is_libritts = "-" not in item and item.count("_") == 3
    return source_clip(
        item,
        split,
        [*ask_voice(item, row, tempo), *present(ask_level(item, "emotion", row["emotion"], EMOTIONS))],
        audio.find(item, row.get("wav_fp", "")),
        looked_for=row.get("wav_fp") or item,
        problem="" if item else "the row has no item_name",
        source_keys=(
            {"libritts": item, "speaker": f"libritts-{item.split('_')[0]}"} if is_libritts else {"utterance": item}
        ),
    )


class _Audio:
    """Finds a row's file by its path, by its hyphenated path, or, for utterance ids, by its stem."""

    def __init__(self, root: Path) -> None:
        self._root = root
        files = audio_below(root)
        self._stems = StemIndex(files)
        self._by_path: dict[str, str] = {}
        for path in files:
            parts = Path(path).relative_to(root).with_name(audio_stem(path)).parts
            for start in range(min(MAX_LEADING_FOLDERS + 1, len(parts) - 1)):
                self._by_path.setdefault("-".join(parts[start:]), path)

    def find(self, item: str, wav_fp: str) -> Path | None:
        """The file of one row: by its path `wav_fp`, else by its hyphen-joined path, else (LibriTTS) by its stem.

        `wav_fp` may start with folders of the authors' machine, but from the corpus' folder on it must be exact, and it
        never leaves that folder. None when no file fits.
        """
        parts = [part for part in PurePosixPath(wav_fp).parts if part not in ("/", "..")]
        for start in range(len(parts)):
            path = self._root.joinpath(*parts[start:])
            if path.is_file():
                return path
        if item in self._by_path:
            return Path(self._by_path[item])
        return self._stems.find(item) if "-" not in item else None

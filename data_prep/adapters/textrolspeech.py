"""TextrolSpeech: style prompts and attributes of read and acted voices (github.com/jishengpeng/TextrolSpeech).

Layouts: `caption/random_{train,test}.csv` or `.jsonl` with `item_name, gender, pitch, tempo (or dur), energy, emotion,
style_prompt` and, in some copies, `wav_fp`; or the tables of the same authors' ControlSpeech,
`VccmDataset/controlspeech_{train,test,test_*}.csv`. Audio in `libritts/`, `VCTK-Corpus/` and
`emotion_dataset/<corpus>/...`.

The item name of an acted clip is its path inside `emotion_dataset/` with `-` for `/`:
`MEAD-M026-audio-surprised-level_1-013`. Names such as RAVDESS' `03-01-04` hold hyphens of their own, so paths are
turned into names, never names into paths.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.adapters.audio_index import StemIndex, audio_below, audio_stem
from data_prep.adapters.base import Findings, SourceClip
from data_prep.adapters.common import CorpusAdapter, clean, note_count, read_csv, read_jsonl, require_file, source_clip
from data_prep.adapters.questions import EMOTIONS, ask_level, ask_voice, present
from pipeline.errors import CorpusError

COLUMNS = ("item_name", "gender", "pitch", "energy", "emotion", "style_prompt")
TEXT_COLUMNS = ("content_prompt", "txt")
N_PAIRS, N_TEST, N_CONTROLSPEECH_TEST = 236_220, 200, 1_500
# Folders that may stand between the corpus' folder and the one that item names start from.
MAX_LEADING_FOLDERS = 3
# How the corpora inside this one name their clips; the group is the speaker.
VOICES = {
    "CREMA-D": re.compile(r"(?:^|-)CREMA-?D-.*-(\d{4})_[^-]*$"),
    "ESD": re.compile(r"(?:^|-)(?:ESD|Emotional Speech Dataset).*-(\d{4})_\d+$"),
    "MEAD": re.compile(r"(?:^|-)MEAD-([MW]\d{3})-"),
    "MESS": re.compile(r"(?:^|-)MESS.*-[A-Z]([MF]\d)[^-]*$"),
    "RAVDESS": re.compile(r"(?:^|-)RAVDESS-Actor_(\d{2})-"),
    "SAVEE": re.compile(r"(?:^|-)SAVEE-.*-([A-Z]{2})_[^-]*$"),
    "TESS": re.compile(r"(?:^|-)TESS-.*-([YO]AF)_[^-]*$"),
    "VCTK": re.compile(r"(?:^|-)([ps]\d+)_\d{3}$"),
    "LibriTTS": re.compile(r"(?:^|-)(\d+)_\d+_\d{6}_\d{6}$"),
}
# Clips whose file name alone is unique; VCTK's later release appends the microphone.
BY_STEM = ("LibriTTS", "VCTK")
MICROPHONES = ("", "_mic1", "_mic2")
SLOW = re.compile(r"\b(?:slow\w*|unhurried\w*|leisurely|deliberate\w*)\b", re.IGNORECASE)
FAST = re.compile(r"\b(?:fast|quick\w*|rapid\w*|swift\w*|brisk\w*)\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Table:
    """One annotation file and the split of its rows."""

    path: Path
    split: str

    def rows(self) -> Iterator[dict[str, str]]:
        """Rows as text; values that a row lacks are "".

        Raises:
            CorpusError: the file cannot be read or lacks a column.
        """
        if self.path.suffix == ".csv":
            yield from read_csv(self.path, COLUMNS)
            return
        for number, record in enumerate(read_jsonl(self.path)):
            if number == 0:
                _check_columns(self.path, list(record))
            row = {name: "" if value is None else str(value) for name, value in record.items()}
            yield {**dict.fromkeys(COLUMNS, ""), **row}


class TextrolSpeech(CorpusAdapter):
    name = "textrolspeech"
    domain = "speech"
    licence = "MIT (text); audio under the research licences of its corpora, LibriTTS and VCTK CC BY 4.0"
    version = 2
    layouts = (
        *(f"{folder}random_train.{suffix}" for folder in ("caption/", "") for suffix in ("csv", "jsonl")),
        *(f"{folder}controlspeech_t*.csv" for folder in ("VccmDataset/", "caption/", "")),
    )

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """One clip for each row. Tables of test come first, so that of a clip that is in two, test keeps it."""
        tables = self._tables(root, found)
        asks_speed = _asks_speed(tables, found)
        audio = _Audio(root)
        n_rows: Counter[str] = Counter()
        for table in tables:
            for row in table.rows():
                n_rows[table.path.stem] += 1
                place = f"{table.path.name}#{n_rows[table.path.stem]}"
                yield _clip(row, table, audio, found, asks_speed=asks_speed, place=place)
        if "controlspeech_test" in n_rows:
            note_count(found, "rows of controlspeech_test", N_CONTROLSPEECH_TEST, n_rows["controlspeech_test"])
        if "random_train" in n_rows:
            note_count(found, "pairs", N_PAIRS, sum(n_rows.values()))
            note_count(found, "rows of test", N_TEST, n_rows["random_test"])
        _note_missing(found)

    def _tables(self, root: Path, found: Findings) -> list[_Table]:
        """The annotation files, test first."""
        first = self.annotation(root)
        found.fact("tables", first.parent.relative_to(root).as_posix())
        if first.name.startswith("random_"):
            if list(first.parent.glob("controlspeech_*.csv")):
                found.note("tables of ControlSpeech lie here too; they describe the same clips and are left out")
            names = ("random_test.csv", "random_test.jsonl")
            test = next((path for name in names if (path := first.with_name(name)).is_file()), None)
            return [_Table(require_file(test, self.name, root, " or ".join(names)), "test"), _Table(first, "train")]
        tables = []
        for path in sorted(first.parent.glob("controlspeech_*.csv")):
            if path.stem.endswith("_prompt"):
                found.note(f"{path.name} is left out: its voices are to be imitated, not described")
            else:
                tables.append(
                    _Table(path, "train" if "train" in path.stem else "val" if "val" in path.stem else "test")
                )
        # Of the test tables the one without a further word in its name is the main one, and first in path order.
        return sorted(tables, key=lambda table: ("test", "val", "train").index(table.split))


def _check_columns(path: Path, names: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise CorpusError(
            "an annotation file lacks a column",
            where={"file": path, "column": ", ".join(missing)},
            got=", ".join(names),
            expected=", ".join(COLUMNS),
            hint="check that the file is of the release that the adapter documents",
        )


def _asks_speed(tables: list[_Table], found: Findings) -> bool:
    """Whether the classes of speed can be trusted: `tempo` can; `dur` could be a class of tempo or of duration.

    In the authors' script "high" means few seconds a word, so a fast voice. The style prompts of the same rows say in
    words which of the two this copy has.
    """
    verdicts: Counter[str] = Counter()
    for table in tables:
        for row in table.rows():
            if "dur" not in row or row.get("tempo"):
                break
            words = {"low": SLOW, "high": FAST}, {"low": FAST, "high": SLOW}
            for verdict, word_of in zip(("agree", "contradict"), words, strict=True):
                word = word_of.get(row["dur"].strip().lower())
                verdicts[verdict] += bool(word and word.search(row["style_prompt"]))
    if verdicts:
        found.fact("dur as tempo", f"{verdicts['agree']} style prompts agree, {verdicts['contradict']} contradict")
    if verdicts["contradict"] > verdicts["agree"]:
        found.note("the column dur is no class of tempo in this copy, as its style prompts tell: speed is not asked")
        return False
    return True


def _clip(
    row: dict[str, str], table: _Table, audio: _Audio, found: Findings, *, asks_speed: bool, place: str
) -> SourceClip:
    item = row["item_name"].strip()
    path = audio.find(item, row.get("wav_fp", ""), found)
    part = _part(item)[0]
    found.count("audio", f"{part} found" if path else f"{part} missing")
    tempo = (row.get("tempo") or row.get("dur") or "") if asks_speed else ""
    emotion = row["emotion"].strip().lower()
    if emotion not in EMOTIONS:
        found.count("emotion", "none" if emotion in ("", "nan", "none") else f"unknown {emotion}")
    text = next((row[name] for name in TEXT_COLUMNS if row.get(name)), "")
    return source_clip(
        item or place,
        table.split,
        [*ask_voice(item, row, tempo), *present(ask_level(item, "emotion", emotion, EMOTIONS))],
        path,
        looked_for=row.get("wav_fp") or item,
        problem="" if item else "the row has no item_name",
        source_keys=_source_keys(item, row.get("spk", "")),
        meta={"part": part, "table": table.path.stem, **({"transcript": clean(text)} if text else {})},
    )


def _part(item: str) -> tuple[str, str]:
    """The corpus inside this one that a clip is of, and its speaker there; ("other", "") when neither is told."""
    for part, pattern in VOICES.items():
        known = pattern.search(item)
        if known:
            return part, known[1]
    return "other", ""


def _source_keys(item: str, spk: str) -> dict[str, str]:
    """LibriTTS utterances are named as in PromptSpeech, so that what both use is found."""
    part, speaker = _part(item)
    kind = part.lower() if part in BY_STEM else "utterance"
    name = item.rsplit("-", 1)[-1] if part in BY_STEM else item
    speaker = f"{part.lower()}-{speaker}" if speaker else f"textrolspeech-{spk}" if spk else ""
    return {kind: name, **({"speaker": speaker} if speaker else {})}


def _note_missing(found: Findings) -> None:
    counts = found.counts.get("audio", Counter())
    n_cremad = counts["CREMA-D missing"]
    if n_cremad and not counts["CREMA-D found"]:
        found.note(f"CREMA-D is not in the published archive of speech: {n_cremad} clips missing; get it apart")


class _Audio:
    """Finds a row's file by its path, by its hyphenated path, or, for utterance ids, by its stem."""

    def __init__(self, root: Path) -> None:
        files = audio_below(root)
        self._stems = StemIndex(files)
        self._by_name: dict[str, str] = {}
        # The same without blanks and in small letters; None where several files could be meant.
        self._by_folded: dict[str, str | None] = {}
        for path in files:
            stem = audio_stem(path)
            if _part(stem)[0] in BY_STEM:
                continue
            parts = PurePosixPath(path).relative_to(root).with_name(stem).parts
            for start in range(min(MAX_LEADING_FOLDERS + 1, len(parts) - 1)):
                name = "-".join(parts[start:])
                if self._by_name.setdefault(name, path) == path:
                    folded = _fold(name)
                    self._by_folded[folded] = path if folded not in self._by_folded else None

    def find(self, item: str, wav_fp: str, found: Findings) -> Path | None:
        """The file of one row: by its path `wav_fp`, else by its hyphen-joined path, else (LibriTTS, VCTK) by its stem.

        `wav_fp` may start with folders of the authors' machine; only files below the corpus' folder are ever found.
        None when no file fits.
        """
        parts = [part for part in PurePosixPath(wav_fp.strip().replace("\\", "/")).parts if part not in ("/", "..")]
        names = ["-".join([*parts[start:-1], audio_stem(parts[-1])]) for start in range(len(parts) - 1)]
        rules = (
            ("wav_fp", names, self._by_name.get),
            ("item name", [item], self._by_name.get),
            ("wav_fp but for blanks and case", [_fold(name) for name in names], self._by_folded.get),
            ("item name but for blanks and case", [_fold(item)], self._by_folded.get),
            ("utterance id", [*parts[-1:], item], self._by_stem),
        )
        for rule, candidates, look_up in rules:
            path = next((path for name in candidates if (path := look_up(name))), None)
            if path is not None:
                found.count("audio name", rule)
                return Path(path)
        found.count("audio name", "no rule matched")
        return None

    def _by_stem(self, name: str) -> Path | None:
        stem = audio_stem(name).rsplit("-", 1)[-1]
        return self._stems.find(*(stem + suffix for suffix in MICROPHONES)) if _part(stem)[0] in BY_STEM else None


def _fold(name: str) -> str:
    return name.replace(" ", "").casefold()

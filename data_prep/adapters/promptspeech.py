"""PromptSpeech: style prompts and voice attributes for LibriTTS utterances (speechresearch.github.io/prompttts).

Layout: CSVs for train and test (`Real_training.csv`, `Real_test*.csv`, but names differ between copies, so a table is
known by its header: `item_name, spk_id, gender, pitch, speaking_speed, energy, style_prompt` and others), and the audio
as `LibriTTS/<subset>/<speaker>/<chapter>/<item_name>.wav` below the same folder; the subset is not in the CSV.

The official split is by table. StyleCap deals the training table anew, so that no speaker is in two splits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from data_prep.adapters.audio_index import StemIndex, audio_stem, is_litter
from data_prep.adapters.base import AdapterOptions, Findings, SourceClip
from data_prep.adapters.common import (
    CorpusAdapter,
    clean,
    csv_header,
    folders,
    note_count,
    read_csv,
    source_clip,
    split_groups,
)
from data_prep.adapters.questions import EMOTIONS, ask_level, ask_voice, present
from pipeline.errors import ConfigError

COLUMNS = ("item_name", "spk_id", "gender", "pitch", "speaking_speed", "energy", "style_prompt")
TELLING = {"item_name", "speaking_speed"}
TEXT_COLUMNS = ("txt", "text", "content_prompt", "content")
N_ROWS = {"train": 26_588, "test": 1_305}
# Speakers of StyleCap's train, val and test.
STYLECAP_SPEAKERS = (1_113, 40, 38)
UTTERANCE = re.compile(r"(\d+)_\d+_\d{6}_\d{6}")
SUBSET = re.compile(r"(?:train|dev|test)-(?:clean|other)(?:-\d+)?")
SUBSETS = (
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
)
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
CSV_PATTERN = "*.[cC][sS][vV]"


class PromptSpeechOptions(AdapterOptions):
    """`split`: "official" goes by table; "speaker" deals the rows of train as StyleCap does and leaves test out.

    `split_list`: the list for "speaker", a CSV with the columns `split` and `item_name` or `spk_id`; without it,
    speakers are dealt by hash in StyleCap's shares. A relative path starts at the corpus.
    `synthesised`: read the tables of the synthesised version too, whose audio is of commercial voices.
    """

    split: Literal["official", "speaker"] = "official"
    split_list: Path | None = None
    synthesised: bool = False


class PromptSpeech(CorpusAdapter):
    name = "promptspeech"
    domain = "speech"
    licence = "prompts: none stated; audio: LibriTTS, CC BY 4.0"
    version = 2
    layouts = (CSV_PATTERN, f"Real_*/{CSV_PATTERN}")
    options_type = PromptSpeechOptions
    options: PromptSpeechOptions

    def accepts(self, path: Path) -> bool:
        return set(csv_header(path)) >= TELLING

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """One clip for each row. Tables of test come first, so that of a row that is in two, test keeps it."""
        self.annotation(root)
        tables = self._tables(root, found)
        audio = StemIndex.below(root)
        deal = _dealt_anew(self.options, root, tables["train"]) if self.options.split == "speaker" else None
        for split in ("test", "val", "train"):
            n_rows = 0
            for table in tables[split]:
                found.fact(f"columns of {table.name}", ", ".join(csv_header(table)))
                for number, row in enumerate(_rows(table), start=1):
                    n_rows += 1
                    row["item_name"] = audio_stem(row["item_name"].strip())
                    anew = split if deal is None else _dealt(row, split, deal)
                    if anew is None:
                        found.count("row", f"of {split}, in no split of the speakers, left out")
                        continue
                    yield _clip(row, anew, audio, found, place=f"{table.name}#{number}")
            if split in N_ROWS:
                note_count(found, f"rows of {split}", N_ROWS[split], n_rows)
        _note_audio(found)

    def _tables(self, root: Path, found: Findings) -> dict[str, list[Path]]:
        """The tables of each split, in path order."""
        tables: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
        for path in (path for folder in folders(root, depth=2) for path in sorted(folder.glob(CSV_PATTERN))):
            name = path.relative_to(root).as_posix()
            if is_litter(path.name) or not self.accepts(path):
                continue
            if "synth" in name.lower() and not self.options.synthesised:
                found.note(f"{name} is left out: its audio is of commercial voices (synthesised=yes reads it)")
                continue
            tables[_split(name)].append(path)
            found.count("table", _split(name))
        for split in N_ROWS:
            if not tables[split]:
                found.note(f"there is no table of {split}")
        return tables


def _split(name: str) -> str:
    """By the words of a table's name, else of its folders: `Real_test_v2/x.csv` is test; without such a word, train."""
    words = (word for part in reversed(Path(name).parts) for word in re.findall(r"[a-z]+", part.lower()))
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "train")


def _rows(table: Path) -> Iterator[dict[str, str]]:
    """Rows of a table, the loudness always as `energy`: some copies name the column `volume`."""
    header = csv_header(table)
    loudness = "volume" if "volume" in header and "energy" not in header else "energy"
    for row in read_csv(table, [loudness if name == "energy" else name for name in COLUMNS]):
        yield {**row, "energy": row[loudness]}


def _speaker(row: dict[str, str]) -> str:
    """By the item name, which the audio is found by; `spk_id` where the name is not of LibriTTS."""
    known = UTTERANCE.fullmatch(audio_stem(row["item_name"].strip()))
    return known[1] if known else row["spk_id"].strip()


def _dealt(row: dict[str, str], split: str, deal: dict[str, str]) -> str | None:
    """Split of a row of train when speakers are dealt anew; None for what has no place in that deal."""
    return (deal.get(row["item_name"]) or deal.get(_speaker(row))) if split == "train" else None


def _clip(row: dict[str, str], split: str, audio: StemIndex, found: Findings, *, place: str) -> SourceClip:
    item = row["item_name"]
    path = audio.find_by_rule({"item name": item}, found) if item else None
    if path is not None:
        found.count("LibriTTS subset", next(iter(SUBSET.findall(path.as_posix())[-1:]), "not named by the path"))
        if re.search(r"libritts[_-]r\b", path.as_posix(), re.IGNORECASE):
            found.note("the audio is LibriTTS-R, which is restored and not what the prompts were written for")
    text = next((row[name] for name in TEXT_COLUMNS if row.get(name)), "")
    return source_clip(
        item or place,
        split,
        [
            *ask_voice(item, row, row["speaking_speed"]),
            *present(ask_level(item, "emotion", row.get("emotion", ""), EMOTIONS)),
        ],
        path,
        looked_for=f"{item}.wav",
        problem="" if item else "the row has no item_name",
        source_keys=_source_keys(item, row["spk_id"].strip(), found),
        meta={"transcript": clean(text)} if text else {},
    )


def _source_keys(item: str, spk_id: str, found: Findings) -> dict[str, str]:
    known = UTTERANCE.fullmatch(item)
    if known is None:
        found.count("item name", "not of LibriTTS")
        return {"utterance": item, **({"speaker": f"promptspeech-{spk_id}"} if spk_id else {})}
    if spk_id and spk_id != known[1]:
        found.count("item name", "of another speaker than spk_id")
    return {"libritts": item, "speaker": f"libritts-{known[1]}"}


def _note_audio(found: Findings) -> None:
    """The subset of a missing utterance is not known; which subsets have given none at all may tell."""
    n_missing = found.counts.get("audio name", Counter[str]())["no rule matched"]
    absent = [name for name in SUBSETS if name not in found.counts.get("LibriTTS subset", {})]
    if n_missing and absent:
        found.note(f"{n_missing} utterances have no audio; subsets of LibriTTS that gave none: {' '.join(absent)}")


def _dealt_anew(options: PromptSpeechOptions, root: Path, train: list[Path]) -> dict[str, str]:
    """Speaker or item -> split, by the given list or by hash."""
    if options.split_list is None:
        n_train, n_val, n_test = STYLECAP_SPEAKERS
        total = n_train + n_val + n_test
        speakers = {_speaker(row) for table in train for row in _rows(table)}
        return split_groups(speakers, n_val / total, n_test / total)
    file = root / options.split_list
    header = csv_header(file) if file.is_file() else []
    key = next((name for name in ("item_name", "spk_id") if name in header), None)
    if key is None or "split" not in header:
        raise ConfigError(
            "the list of speakers cannot be used",
            where={"option": "promptspeech.split_list", "file": file},
            got=", ".join(header) or ("an empty file" if file.is_file() else "no such file"),
            expected="a CSV with the columns split and item_name or spk_id",
        )
    deal: dict[str, str] = {}
    for row in read_csv(file, (key, "split")):
        split = SPLIT_WORDS.get(row["split"].strip().lower())
        if split is None:
            raise ConfigError(
                "the list of speakers names an unknown split",
                where={"option": "promptspeech.split_list", "file": file, key: row[key]},
                got=row["split"],
                expected="train val test",
            )
        deal[row[key].strip()] = split
    return deal

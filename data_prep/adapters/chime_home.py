"""CHiME-Home: four-second chunks of home recordings with tags (archive.org `chime-home`, DCASE 2016 task 4).

Layout: `<part>_chunks_{refined,raw}.csv` without header (`id,chunkname`), and in `chunks*/` for each chunk
`<chunkname>.csv` with one `key,value` a line and `<chunkname>.{16kHz,48kHz}.wav`. Chunk names contain dots. Development
is train, evaluation is test; there is no val, but the official five folds of development
(`development_chunks_refined_crossval_dcase{2016,}.csv`, the fold as third column) offer one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from data_prep.adapters.audio_index import StemIndex, is_litter
from data_prep.adapters.base import AdapterOptions, Findings, SourceClip
from data_prep.adapters.common import CorpusAdapter, folders, note_count, require_file, source_clip
from data_prep.adapters.questions import ask, ask_presence, join_words, present
from pipeline.errors import CorpusError

PARTS = {"train": "development", "test": "evaluation"}
N_CHUNKS = {"refined": {"train": 1_946, "test": 816}, "raw": {"train": 4_378, "test": 1_759}}
# The README of the corpus calls it by the second name.
FOLD_LISTS = ("development_chunks_refined_crossval_dcase2016.csv", "development_chunks_refined_crossval_dcase.csv")
SOURCES = {
    "c": "child speech",
    "m": "adult male speech",
    "f": "adult female speech",
    "v": "video game or TV sound",
    "p": "percussive sound",
    "b": "broadband noise",
    "o": "other identifiable sound",
}
NOTHING = "No clear sound source is audible."
_SILENT, _FLAGGED = "S", "U"


class ChimeHomeOptions(AdapterOptions):
    """`chunks`: "refined" takes those on which the annotators agree, "raw" all, with noisier tags.

    `val_fold`: which of the five official folds of development is val; by default none is, and all of it is train.
    `rate`: the version of a chunk to take where both are there: 16 kHz mono or 48 kHz stereo.
    """

    chunks: Literal["refined", "raw"] = "refined"
    val_fold: int | None = Field(default=None, ge=1, le=5)
    rate: Literal["16kHz", "48kHz"] = "16kHz"


class ChimeHome(CorpusAdapter):
    name = "chime_home"
    domain = "sound"
    licence = "CC BY-NC-SA 3.0"
    version = 2
    layouts = ("development_chunks_refined.csv", "development_chunks_raw.csv")
    options_type = ChimeHomeOptions
    options: ChimeHomeOptions

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """One clip for each chunk: its sound sources, and one yes/no question; see `Adapter.clips`."""
        lists = {}
        for split, part in PARTS.items():
            name = f"{part}_chunks_{self.options.chunks}.csv"
            lists[split] = require_file(root / name, self.name, root, name)
        val = self._val_chunks(root, found)
        audio = StemIndex.below(root, found=found)
        tables = _tables(root)
        for split, file in lists.items():
            names = [row[1] for row in _rows(file, "id,chunkname")]
            note_count(found, f"chunks in {file.name}", N_CHUNKS[self.options.chunks][split], len(names))
            if split == "train" and val:
                _note_overlap(names, val, found)
            for name in names:
                yield self._clip(name, "val" if name in val and split == "train" else split, tables, audio, found)

    def _clip(self, name: str, split: str, tables: dict[str, Path], audio: StemIndex, found: Findings) -> SourceClip:
        labels, problem = _labels(tables.get(name), name)
        sources = [words for letter, words in SOURCES.items() if letter in labels]
        if not sources and not problem:
            found.count("majority vote without a source", labels or "empty")
        for letter in sorted(set(labels) - SOURCES.keys() - {_SILENT, _FLAGGED}):
            found.count("letters that the corpus does not document", letter)
        first, second = (self.options.rate, "48kHz" if self.options.rate == "16kHz" else "16kHz")
        return source_clip(
            name,
            split,
            present(
                ask(name, "sources", join_words(sources) if sources else NOTHING),
                ask_presence(name, sources, list(SOURCES.values())),
            ),
            audio.find_by_rule({first: f"{name}.{first}", second: f"{name}.{second}", "no rate": name}, found),
            looked_for=f"{name}.{first}.wav or {name}.{second}.wav",
            problem=problem,
            source_keys={"session": f"chime-{_session(name)}"},
            meta={"labels": labels},
        )

    def _val_chunks(self, root: Path, found: Findings) -> set[str]:
        """Names of the chunks of the fold that is val; empty without that choice.

        The file's own numbers count from 0 by DCASE's reader and from 1 in other copies: the folds are taken in their
        order.
        """
        if self.options.val_fold is None:
            return set()
        file = next((root / name for name in FOLD_LISTS if (root / name).is_file()), None)
        file = require_file(file, self.name, root, " or ".join(FOLD_LISTS))
        fold_of = {row[1]: row[2] for row in _rows(file, "id,chunkname,fold")}
        folds = sorted(set(fold_of.values()), key=lambda text: (len(text), text))
        if len(folds) < self.options.val_fold:
            raise CorpusError(
                "the corpus has not so many folds",
                where={"file": file, "option": f"{self.name}.val_fold"},
                got=f"folds {' '.join(folds)}",
                expected=f"at least {self.options.val_fold} folds",
            )
        chosen = folds[self.options.val_fold - 1]
        found.fact("val", f"fold {self.options.val_fold} of {len(folds)}, called {chosen} in {file.name}")
        return {name for name, fold in fold_of.items() if fold == chosen}


def _session(name: str) -> str:
    """The recording that a chunk was cut from: "CR_lounge_200110_1601" of "CR_lounge_200110_1601.s0_chunk1"."""
    return name.split(".s")[0]


def _note_overlap(names: list[str], val: set[str], found: Findings) -> None:
    """What the choice of a fold does to the development list."""
    unlisted = len(val.difference(names))
    if unlisted:
        found.note(f"{unlisted} chunks of the val fold are not in the development list, and left out")
    shared = {_session(name) for name in val} & {_session(name) for name in names if name not in val}
    if shared:
        found.note(f"the official folds cut within sessions: val shares {len(shared)} sessions with train")


def _rows(file: Path, columns: str) -> Iterator[list[str]]:
    """Stripped rows of a list without header; blank lines, and a header that somebody added, are passed over."""
    n_columns = columns.count(",") + 1
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        for number, row in enumerate(csv.reader(lines), start=1):
            values = [value.strip() for value in row]
            if not any(values) or ",".join(values[:2]).lower() == "id,chunkname":
                continue
            if len(values) < n_columns:
                raise CorpusError(
                    "an annotation file lacks a column",
                    where={"file": file, "line": number, "column": columns.rpartition(",")[2]},
                    got=",".join(row),
                    expected=columns,
                )
            yield values


def _tables(root: Path) -> dict[str, Path]:
    """Path of each chunk's own table by chunk name; copies spread the chunks over folders of several names."""
    paths: dict[str, Path] = {}
    for folder in folders(root):
        for path in sorted(folder.glob("*.csv")):
            if not is_litter(path.name):
                paths.setdefault(path.stem, path)
    return paths


def _labels(file: Path | None, name: str) -> tuple[str, str]:
    """(majority vote, problem) of one chunk; an empty vote is an answer (nothing clear), not a problem."""
    if file is None:
        return "", f"no annotation file {name}.csv"
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        values = {row[0].strip(): row[1].strip() for row in csv.reader(lines) if len(row) > 1}
    if "majorityvote" not in values:
        return "", f"{name}.csv has no line majorityvote"
    labels = values["majorityvote"]
    if _FLAGGED in labels and SOURCES.keys().isdisjoint(labels):
        return labels, f"no source but {_FLAGGED} (unidentifiable or flagged)"
    return labels, ""

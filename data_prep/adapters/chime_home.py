"""CHiME-Home: four-second chunks of home recordings with tags (archive.org `chime-home`, DCASE 2016 task 4).

Layout: `<part>_chunks_refined.csv` without header (`id,chunkname`), `chunks*/<chunkname>.csv` with one `key,value` a
line, and `chunks*/<chunkname>.{16kHz,48kHz}.wav`. Chunk names contain dots. The refined lists (chunks on which the
annotators agree) are used: development = train, evaluation = test; there is no val.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from data_prep.adapters.audio_index import StemIndex
from data_prep.adapters.base import SourceClip
from data_prep.adapters.common import CorpusAdapter, require_file, source_clip
from data_prep.adapters.questions import ask, ask_presence, join_words, present
from pipeline.errors import CorpusError

LISTS = {"train": "development_chunks_refined.csv", "test": "evaluation_chunks_refined.csv"}
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


class ChimeHome(CorpusAdapter):
    name = "chime_home"
    domain = "sound"
    licence = "CC BY-NC-SA 3.0"
    layouts = ("development_chunks_refined.csv",)

    def clips(self, root: Path) -> Iterator[SourceClip]:
        """One clip for each refined chunk: its sound sources, and one yes/no question; see `Adapter.clips`."""
        lists = {split: require_file(root / name, self.name, root, name) for split, name in LISTS.items()}
        folders = sorted(path for path in root.glob("chunks*") if path.is_dir())
        if not folders:
            raise CorpusError(
                "a folder of the corpus is absent", where={"corpus": self.name, "looked for": "chunks*", "below": root}
            )
        audio = StemIndex.below(*folders)
        for split, file in lists.items():
            for name in _chunk_names(file):
                labels, problem = _labels(folders, name)
                sources = [words for letter, words in SOURCES.items() if letter in labels]
                answer = join_words(sources) if sources else NOTHING
                yield source_clip(
                    name,
                    split,
                    present(ask(name, "sources", answer), ask_presence(name, sources, list(SOURCES.values()))),
                    audio.find(f"{name}.16kHz", f"{name}.48kHz"),
                    looked_for=f"{name}.16kHz.wav or {name}.48kHz.wav",
                    problem=problem,
                    source_keys={"session": f"chime-{name.split('.s')[0]}"},
                    meta={"labels": labels},
                )


def _chunk_names(file: Path) -> Iterator[str]:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        for number, row in enumerate(csv.reader(lines), start=1):
            if not row:
                continue
            if len(row) < 2:
                raise CorpusError(
                    "an annotation file lacks a column",
                    where={"file": file, "line": number, "column": "chunkname"},
                    got=",".join(row),
                    expected="id,chunkname",
                )
            yield row[1].strip()


def _labels(folders: list[Path], name: str) -> tuple[str, str]:
    """(majority vote, problem) of one chunk; an empty vote is an answer (nothing clear), not a problem."""
    file = next((path for folder in folders if (path := folder / f"{name}.csv").is_file()), None)
    if file is None:
        return "", f"no annotation file {name}.csv"
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
        values = {row[0].strip(): row[1].strip() for row in csv.reader(lines) if len(row) > 1}
    if "majorityvote" not in values:
        return "", f"{name}.csv has no line majorityvote"
    labels = values["majorityvote"]
    if set(labels) == {"U"}:
        return labels, "the only label is U (unidentifiable or flagged)"
    return labels, ""

"""WavCaps' black-lists: ids of clips that AudioCaps, Clotho and other evaluation sets hold too.

The corpus ships three JSON lists (`{"AudioSet": ["Y....wav"], "FreeSound": ["123"]}`); aac-datasets has stricter CSV
lists (`index,id`, CRLF), of which `clotho.full.v2` also covers the DCASE sets that the JSON lists miss.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.adapters.audio_index import audio_stem, is_litter
from data_prep.adapters.base import Findings
from data_prep.adapters.common import folders, read_csv, read_json
from pipeline.errors import ConfigError, CorpusError, did_you_mean

STRICTEST, NONE = "strictest", "none"
# Short names: of the file name without `blacklist_`, `exclude_` and suffix.
_AUDIOCAPS = ("all_ac", "audiocaps.full")
_CLOTHO = ("all_ac", "clotho.full.v2")
_SOURCE_KEYS = {
    "AudioSet": "youtube",
    "AudioSet_SL": "youtube",
    "FreeSound": "freesound",
    "BBC_Sound_Effects": "bbc",
    "SoundBible": "soundbible",
}
_YOUTUBE_ID = re.compile(r"Y?([\w-]{11})(_\d+)?")

Recording = tuple[str, str]


def recording(key: str, name: str) -> Recording:
    """(source key, id) as the other corpora write it, from an id or file name of WavCaps or of a list."""
    stem = audio_stem(name.strip())
    if key == "youtube":
        match = _YOUTUBE_ID.fullmatch(stem)
        return key, match[1] if match else stem
    return key, stem.lower() if key == "bbc" else stem


class Blacklists:
    """Recordings that must not be used, each with the first list that names it."""

    def __init__(self, named_by: dict[Recording, str]) -> None:
        self._named_by = named_by

    @classmethod
    def read(cls, root: Path, chosen: Iterable[str], found: Findings) -> Blacklists:
        """The chosen lists among those below `root`; `strictest` takes the strictest ones that are there.

        Raises:
            ConfigError: a chosen list is not there.
            CorpusError: a list has another form.
        """
        files = _files(root)
        names = list(dict.fromkeys(_names(list(chosen), files, root)))
        found.fact("black-lists below the folder", ", ".join(path.name for path in files.values()) or "none")
        found.fact("black-lists used", ", ".join(files[name].name for name in names) or "none")
        if list(chosen) == [STRICTEST]:
            _note_gaps(names, found)
        named_by: dict[Recording, str] = {}
        for name in names:
            for entry in _entries(name, files[name]):
                named_by.setdefault(entry, files[name].name)
        return cls(named_by)

    def reason(self, entry: Recording) -> str:
        """Why a recording must not be used; "" when no list names it."""
        name = self._named_by.get(entry)
        return f"named by {name}" if name else ""


def _files(root: Path) -> dict[str, Path]:
    """Short name -> the shallowest file with it, at most three folders deep."""
    files: dict[str, Path] = {}
    for folder in folders(root):
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.lower().startswith("blacklist"))
        for name in names:
            if name.lower().endswith((".json", ".csv")) and not is_litter(name):
                files.setdefault(_short(name), folder / name)
    return files


def _short(name: str) -> str:
    name = re.sub(r"\.(json|csv)$", "", name.strip().lower())
    return name.removeprefix("blacklist_").removeprefix("exclude_")


def _names(chosen: list[str], files: dict[str, Path], root: Path) -> Iterator[str]:
    for choice in chosen:
        if choice == NONE:
            continue
        if choice == STRICTEST:
            yield from _strictest(files)
        elif _short(choice) in files:
            yield _short(choice)
        else:
            names = [STRICTEST, NONE, *files]
            raise ConfigError(
                "a black-list is not there",
                where={"option": "wavcaps.blacklists", "below": root},
                got=choice,
                expected=" ".join(names),
                hint=did_you_mean(_short(choice), names, "download the list into the corpus folder"),
            )


def _strictest(files: Iterable[str]) -> list[str]:
    """All of the strict lists that are there; where none covers AudioCaps or Clotho, whatever list does."""
    chosen = [name for name in files if name in {*_AUDIOCAPS, *_CLOTHO}]
    for strict, corpus in ((_AUDIOCAPS, "audiocaps"), (_CLOTHO, "clotho")):
        if not set(strict) & set(chosen):
            chosen += [name for name in files if name == "test_ac" or name.startswith(corpus)]
    return chosen


def _note_gaps(names: list[str], found: Findings) -> None:
    if not set(_AUDIOCAPS) & set(names):
        found.note("no black-list covers all of AudioCaps: WavCaps-AudioSet holds 17.6 % of it")
    if not set(_CLOTHO) & set(names):
        found.note("no black-list covers all of Clotho: WavCaps-FreeSound holds 89 % of it")
    elif "clotho.full.v2" not in names:
        found.note("blacklist_clotho.full.v2.csv of aac-datasets is not there; the list used misses the DCASE sets")


def _entries(name: str, file: Path) -> Iterator[Recording]:
    if file.suffix.lower() == ".csv":
        yield from (recording(_key(name, row["id"]), row["id"]) for row in read_csv(file, ("id",)) if row["id"].strip())
        return
    lists = read_json(file)
    if not isinstance(lists, dict) or not all(isinstance(ids, list) for ids in lists.values()):
        raise CorpusError(
            "a black-list has another form",
            where={"file": file},
            got=type(lists).__name__,
            expected='{"AudioSet": [ids], "FreeSound": [ids]}',
        )
    for part, ids in lists.items():
        if part not in _SOURCE_KEYS:
            raise CorpusError(
                "a black-list names an unknown source",
                where={"file": file, "key": part},
                expected=" ".join(_SOURCE_KEYS),
            )
        yield from (recording(_SOURCE_KEYS[part], str(id)) for id in ids)


def _key(name: str, id: str) -> str:
    """The source that an id of a CSV list is of: the list's name says it, or else its form."""
    if "audiocaps" in name:
        return "youtube"
    return "freesound" if "clotho" in name or audio_stem(id.strip()).isdigit() else "youtube"

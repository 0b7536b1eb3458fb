"""Clotho v2.1: five captions for each Freesound clip of 15-30 s (Zenodo 4783391).

Layout: `clotho_captions_<split>.csv` and, optional, `clotho_metadata_<split>.csv` (ISO-8859-1; rows in another order)
anywhere at most three folders deep, and the audio in folders `development/`, `validation/` and `evaluation/`, also
inside others (`clotho_audio_files/` of aac-datasets). The test, analysis and retrieval releases have no five captions
and are left out. File names hold spaces (also before `.wav`), commas and literal HTML entities; they are taken as they
are, and in the ways that unpacking is known to change them only when they are not there.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.adapters.audio_index import StemIndex, audio_below, audio_stem
from data_prep.adapters.base import Findings, SourceClip
from data_prep.adapters.common import (
    CorpusAdapter,
    clean,
    file_below,
    files_in,
    note_count,
    read_csv,
    require_file,
    source_clip,
    with_audio,
)
from data_prep.adapters.questions import ask_captions
from pipeline.errors import CorpusError

PARTS = {"train": "development", "val": "validation", "test": "evaluation"}
N_CLIPS = {"train": 3_839, "val": 1_045, "test": 1_045}
CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))
# Characters that some file systems refuse.
ILLEGAL = re.compile(r'[<>:"/\\|?*]')


class Clotho(CorpusAdapter):
    name = "clotho"
    domain = "sound"
    licence = "captions: Tampere University non-commercial with attribution; audio: Creative Commons, each file its own"
    version = 2
    layouts = ("clotho_captions_development.csv",)

    def find(self, root: Path) -> Path | None:
        tables = super().find(root)
        places = [place for part in PARTS.values() for place in (part, f"*/{part}")]
        return None if tables is None else with_audio(tables, root, *places)

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """One clip for each row of the three caption tables: its captions; see `Adapter.clips`."""
        tables = {}
        for split, part in PARTS.items():
            name = f"clotho_captions_{part}.csv"
            tables[split] = require_file(file_below(root, name), self.name, root, name)
        files = audio_below(root, found=found)
        n_used = 0
        for split, part in PARTS.items():
            own = files_in(files, root, part, f"clotho_audio_{part}")
            if not own:
                raise CorpusError(
                    "an audio folder of the corpus is absent or empty",
                    where={"corpus": self.name, "looked for": f"{part}/", "below": root},
                    hint=f"unpack clotho_audio_{part}.7z here",
                )
            for clip in _part(root, split, tables[split], StemIndex(own), found):
                n_used += clip.audio is not None
                yield clip
        if len(files) > n_used:
            found.note(f"{len(files) - n_used} audio files are in no caption table and left out")


def _part(root: Path, split: str, table: Path, audio: StemIndex, found: Findings) -> Iterator[SourceClip]:
    part = PARTS[split]
    metadata = _metadata(root, table, part, found)
    n_clips = 0
    for row in read_csv(table, ("file_name", *CAPTIONS)):
        n_clips += 1
        file_name = row["file_name"]
        clip_id = f"{part}/{file_name}"
        about = metadata.get(file_name, {})
        keys = {"clotho": audio_stem(file_name)}
        if metadata:
            sound_id = about.get("sound_id", "").strip()
            found.count("Freesound id", "number" if sound_id.isdecimal() else f"none ({sound_id or 'empty'})")
            if sound_id.isdecimal():
                keys["freesound"] = sound_id
        captions = [text for name in CAPTIONS if (text := clean(row[name]))]
        found.count(f"captions a clip in {split}", str(len(captions)))
        yield source_clip(
            clip_id,
            split,
            ask_captions(clip_id, split, captions),
            audio.find_by_rule(_names(file_name), found),
            looked_for=file_name,
            source_keys=keys,
            meta={name: about[name] for name in ("keywords", "license") if about.get(name)},
        )
    note_count(found, f"clips in split {split}", N_CLIPS[split], n_clips)


def _names(file_name: str) -> dict[str, str]:
    """What a file may be called on disk: as annotated, or as archivers and file systems have changed it."""
    names = {
        "as annotated": file_name,
        "illegal characters as _": ILLEGAL.sub("_", file_name),
        # "Intersection Wet : Metro Pass.wav" is "Intersection Wet_Metro Pass.wav" in the retrieval release.
        "illegal characters and blanks around them as _": re.sub(rf"\s*{ILLEGAL.pattern}\s*", "_", file_name),
        "blanks folded": " ".join(audio_stem(file_name).split()) + ".wav",
        "entities decoded": html.unescape(file_name),
    }
    return {rule: name for rule, name in names.items() if rule == "as annotated" or name != file_name}


def _metadata(root: Path, table: Path, part: str, found: Findings) -> dict[str, dict[str, str]]:
    """Metadata rows by file name (their order differs from the captions'); empty when the file is not there."""
    name = f"clotho_metadata_{part}.csv"
    beside = table.with_name(name)
    file = beside if beside.is_file() else file_below(root, name)
    if file is None:
        found.note(f"no {name}: without Freesound ids, clips that WavCaps and others share cannot be told")
        return {}
    encoding = _encoding(file)
    found.fact(f"encoding of {name}", encoding)
    return {row["file_name"]: row for row in read_csv(file, ("file_name", "sound_id"), encoding=encoding)}


def _encoding(file: Path) -> str:
    """Published as Latin-1, in which every byte is a letter; a copy that reads as UTF-8 was re-saved."""
    try:
        file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"

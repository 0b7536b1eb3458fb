"""Clotho v2.1: five captions for each Freesound clip of 15-30 s (Zenodo 4783391).

Layout: `clotho_captions_<split>.csv` and, optional, `clotho_metadata_<split>.csv` (ISO-8859-1), beside or in a folder
next to the audio folders `development/`, `validation/` and `evaluation/`. File names hold spaces (also before `.wav`),
commas and literal HTML entities; they are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.adapters.audio_index import StemIndex, audio_stem
from data_prep.adapters.base import SourceClip
from data_prep.adapters.common import (
    CorpusAdapter,
    clean,
    file_below,
    folders_named,
    read_csv,
    require_file,
    source_clip,
)
from data_prep.adapters.questions import ask_captions
from pipeline.errors import CorpusError

PARTS = {"train": "development", "val": "validation", "test": "evaluation"}
CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))


class Clotho(CorpusAdapter):
    name = "clotho"
    domain = "sound"
    licence = "captions: Tampere University non-commercial with attribution; audio: Creative Commons, each file its own"
    layouts = ("clotho_captions_development.csv",)

    def find(self, root: Path) -> Path | None:
        tables = super().find(root)
        if tables is None:
            return None
        # The tables may lie in a folder of their own beside the audio: the corpus is where both are.
        above = [folder for folder in (tables, *tables.parents) if folder == root or root in folder.parents]
        near = (folder for folder in above[:3] if any((folder / part).is_dir() for part in _audio_places(folder)))
        return next(near, tables)

    def clips(self, root: Path) -> Iterator[SourceClip]:
        tables = {}
        for part in PARTS.values():
            name = f"clotho_captions_{part}.csv"
            tables[part] = require_file(file_below(root, name), self.name, root, name)
        for split, part in PARTS.items():
            yield from self._part(root, split, part, tables[part])

    def _part(self, root: Path, split: str, part: str, table: Path) -> Iterator[SourceClip]:
        places = folders_named(root, part)
        if not places:
            raise CorpusError(
                "an audio folder of the corpus is absent",
                where={"corpus": self.name, "looked for": f"{part}/", "below": root},
                hint=f"unpack clotho_audio_{part}.7z here",
            )
        audio = StemIndex.below(*places)
        metadata = _metadata(table.with_name(f"clotho_metadata_{part}.csv"))
        for row in read_csv(table, ("file_name", *CAPTIONS)):
            file_name = row["file_name"]
            clip_id = f"{part}/{file_name}"
            about = metadata.get(file_name, {})
            keys = {"clotho": audio_stem(file_name)}
            if about.get("sound_id", "").isdigit():
                keys["freesound"] = about["sound_id"]
            captions = [text for name in CAPTIONS if (text := clean(row[name]))]
            yield source_clip(
                clip_id,
                split,
                ask_captions(clip_id, split, captions),
                audio.find(file_name, file_name.replace(":", "_")),
                looked_for=file_name,
                source_keys=keys,
                meta={name: about[name] for name in ("keywords", "license") if about.get(name)},
            )


def _audio_places(folder: Path) -> Iterator[Path]:
    for part in PARTS.values():
        yield folder / part
        yield from (child / part for child in folder.iterdir() if child.is_dir())


def _metadata(file: Path) -> dict[str, dict[str, str]]:
    """Metadata rows by file name (their order differs from the captions'); empty when the file is not there."""
    if not file.is_file():
        return {}
    return {row["file_name"]: row for row in read_csv(file, ("file_name", "sound_id"), encoding="latin-1")}

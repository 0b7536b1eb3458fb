"""WavCaps: machine-written captions for 403,050 clips of four sources (hub `cvssp/WavCaps`).

Layout: `json_files/<Source>/<name>.json` (`{"data": [{"id", "caption", ...}]}`), or these files anywhere near, and the
audio in `Audio/<Source>/<id>.flac`, `raw_datasets/<Source>_flac/<id>.flac`, or packed in `Zip_files/<Source>/*.zip`.
Ids of AudioSet look like `Y<youtube id>.wav`; the JSON tells no start time. Train only; black-lists keep the clips of
evaluation sets out.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from data_prep.adapters.audio_index import StemIndex, audio_files, audio_stem
from data_prep.adapters.base import AdapterOptions, Findings, SourceClip
from data_prep.adapters.common import (
    CorpusAdapter,
    Names,
    clean,
    file_below,
    folders_named,
    note_count,
    source_clip,
    with_audio,
)
from data_prep.adapters.jsonstream import stream_objects
from data_prep.adapters.questions import ask, present
from data_prep.adapters.wavcaps_lists import STRICTEST, Blacklists, recording
from data_prep.archives.sources import split_hint
from pipeline.errors import CorpusError


@dataclass(frozen=True)
class Source:
    """One of the four: its folder, its JSON file, the name that other corpora give to its ids, published entries."""

    folder: str
    json: str
    key: str
    n_entries: int


SOURCES = (
    Source("AudioSet_SL", "as_final.json", "youtube", 108_317),
    Source("BBC_Sound_Effects", "bbc_final.json", "bbc", 31_201),
    Source("FreeSound", "fsd_final.json", "freesound", 262_300),
    Source("SoundBible", "sb_final.json", "soundbible", 1_232),
)
NAMES = tuple(source.folder for source in SOURCES)
# A broken file that was on the hub for some time.
BROKEN_JSON = "fsd_final_2s.json"
AUDIO_PLACES = tuple(
    place.format(name) for name in NAMES for place in ("Audio/{}", "raw_datasets/{}_flac", "{}_flac", "Zip_files/{}")
)


class WavCapsOptions(AdapterOptions):
    """Choices for WavCaps."""

    sources: Names = Field((), description=f"take only these: {', '.join(NAMES)}; all when empty")
    blacklists: Names = Field(
        (STRICTEST,), description="`strictest` that are there for AudioCaps and Clotho, `none`, or names of the lists"
    )

    @field_validator("sources")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in NAMES]
        if unknown:
            raise ValueError(f"no such source: {', '.join(unknown)}; there are {', '.join(NAMES)}")
        return names


class WavCaps(CorpusAdapter):
    name = "wavcaps"
    domain = "sound"
    licence = "CC BY 4.0 by its tag, academic use only by its text; audio under the terms of each source"
    version = 2
    max_missing_fraction = 0.25  # known downloads lack a fifth of FreeSound
    layouts = tuple(
        layout.format(source.folder, source.json)
        for layout in ("json_files/{}/{}", "json_files/{1}", "{}/{}", "{1}")
        for source in SOURCES
    )
    options_type = WavCapsOptions
    options: WavCapsOptions

    def find(self, root: Path) -> Path | None:
        annotations = super().find(root)
        return None if annotations is None else with_audio(annotations, root, *AUDIO_PLACES)

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """One clip for each entry, sources one after the other; see `Adapter.clips`.

        Raises:
            CorpusError: also when all that is there of the audio are parts of split archives.
            ConfigError: a black-list that the options name is not there.
        """
        files = self._annotations(root, found)
        blacklists = Blacklists.read(root, self.options.blacklists, found)
        audio = {source: _audio(root, source, found) for source in files}
        if not any(audio.values()):
            _refuse_split_archives(root, files)
        for source, file in files.items():
            yield from _clips(source, file, audio[source], blacklists, found)

    def _annotations(self, root: Path, found: Findings) -> dict[Source, Path]:
        """The JSON file of each chosen source that has one."""
        files: dict[Source, Path] = {}
        for source in SOURCES:
            usual = root / "json_files" / source.folder / source.json
            file = usual if usual.is_file() else file_below(root, source.json)
            if self.options.sources and source.folder not in self.options.sources:
                found.note(f"{source.folder} is left out by the option sources")
            elif file is None:
                found.note(f"{source.folder} is left out: no {source.json}")
            else:
                files[source] = file
        if file_below(root, BROKEN_JSON) is not None:
            found.note(f"{BROKEN_JSON} is a broken file that the hub had once; it is not read")
        if not files:
            self.annotation(root)
            raise CorpusError(
                "no annotation file of the chosen sources is there",
                where={"corpus": self.name, "folder": root},
                expected=" or ".join(source.json for source in SOURCES if source.folder in self.options.sources),
                hint="download json_files/ of cvssp/WavCaps",
            )
        return files


def _places(root: Path, source: Source) -> list[Path]:
    # The annotations lie in folders of the same names, without audio: the index passes over them.
    return folders_named(root, source.folder, f"{source.folder}_flac")


def _audio(root: Path, source: Source, found: Findings) -> list[str]:
    """All audio of a source; none is no error, as the hub's copy brings the annotations of all four."""
    return [path for place in _places(root, source) for path in audio_files(place, found)]


def _refuse_split_archives(root: Path, sources: Iterable[Source]) -> None:
    """When there is no audio at all: an error that says how to join split archives, if those are there."""
    first_parts = [
        part for source in sources for place in _places(root, source) for part in sorted(place.glob("*.z01"))
    ]
    if first_parts:
        raise CorpusError(
            "the audio is in split archives, which cannot be read",
            where={"corpus": "wavcaps", "folder": root, "archives": ", ".join(part.stem for part in first_parts)},
            expected="one whole zip for each source, or its files unpacked",
            hint="; ".join(
                f"in {part.parent.relative_to(root)}: {split_hint(str(part.with_suffix('.zip')))}"
                for part in first_parts
            ),
        )


def _clips(
    source: Source, file: Path, paths: list[str], blacklists: Blacklists, found: Findings
) -> Iterator[SourceClip]:
    audio = StemIndex(paths)
    n_entries = n_found = 0
    for item in stream_objects(file, key="data"):
        entry = item.value
        if "id" not in entry or "caption" not in entry:
            raise CorpusError(
                "an annotation file lacks a key",
                where={"file": file, "byte": item.offset, "key": "id, caption"},
                got=", ".join(entry),
                expected="id, caption",
            )
        clip = _clip(source, entry, audio, blacklists, found)
        n_entries += 1
        n_found += clip.audio is not None
        yield clip
    found.count("entries", source.folder, n_entries)
    if n_found < n_entries:
        found.count("entries without audio", source.folder, n_entries - n_found)
    if n_found < len(paths):
        found.count("audio files without an entry, or in another format too", source.folder, len(paths) - n_found)
    note_count(found, f"{source.folder} entries", source.n_entries, n_entries)


def _clip(
    source: Source, entry: dict[str, Any], audio: StemIndex, blacklists: Blacklists, found: Findings
) -> SourceClip:
    stem = audio_stem(str(entry["id"]).strip())
    clip_id = f"{source.folder}/{stem}"
    captions = entry["caption"] if isinstance(entry["caption"], list) else [entry["caption"]]
    key = recording(source.key, stem)
    blacklisted = blacklists.reason(key)
    if blacklisted:
        found.count("black-listed", f"{source.folder}, {blacklisted}")
    meta: dict[str, Any] = {"part": source.folder}
    duration_s = _duration_s(entry.get("duration"), found)
    if duration_s is not None:
        meta["listed_duration_s"] = duration_s
    categories = _categories(entry.get("category"))
    if categories:
        meta["category"] = categories
    return source_clip(
        clip_id,
        "train",
        present(ask(clip_id, "caption", *captions)),
        audio.find(stem),
        looked_for=f"{stem}.flac",
        blacklisted=blacklisted,
        source_keys=dict([key]),
        meta=meta,
    )


def _duration_s(value: object, found: Findings) -> float | None:
    """The duration that the annotation claims, which may be written as text; None when it is no such number."""
    if value is None:
        return None
    try:
        duration_s = float(str(value))
    except ValueError:
        duration_s = math.nan
    is_usable = math.isfinite(duration_s) and duration_s > 0
    found.count("duration", type(value).__name__ if is_usable else "unusable")
    return duration_s if is_usable else None


def _categories(value: object) -> list[str]:
    """BBC's categories: a list written as Python text, `"['Machines']"`."""
    try:
        values = ast.literal_eval(value) if isinstance(value, str) and value.startswith("[") else value
    except (ValueError, SyntaxError):
        values = value
    return [text for item in (values if isinstance(values, list) else [values]) if (text := clean(item))]

"""WavCaps: machine-written captions for 403,050 clips of four sources (hub `cvssp/WavCaps`).

Layout: `json_files/<Source>/<name>.json` (`{"data": [{"id", "caption", ...}]}`) and the unpacked audio
`Audio/<Source>/<id>.flac` or `<Source>_flac/<id>.flac`. Ids of AudioSet look like `Y<youtube id>.wav`. Train only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.adapters.audio_index import StemIndex, audio_files, audio_stem
from data_prep.adapters.base import SourceClip
from data_prep.adapters.common import CorpusAdapter, folders_named, source_clip
from data_prep.adapters.jsonstream import stream_objects
from data_prep.adapters.questions import ask, present
from pipeline.errors import CorpusError


@dataclass(frozen=True)
class Source:
    """One of the four: its folder, its JSON file, and the name that other corpora give to its ids."""

    folder: str
    json: str
    key: str


SOURCES = (
    Source("AudioSet_SL", "as_final.json", "youtube"),
    Source("BBC_Sound_Effects", "bbc_final.json", "bbc"),
    Source("FreeSound", "fsd_final.json", "freesound"),
    Source("SoundBible", "sb_final.json", "soundbible"),
)


class WavCaps(CorpusAdapter):
    name = "wavcaps"
    domain = "sound"
    licence = "CC BY 4.0 by its tag, academic use only by its text; audio under the terms of each source"
    max_missing_fraction = 0.25  # known downloads lack a fifth of FreeSound
    layouts = tuple(f"json_files/{source.folder}/{source.json}" for source in SOURCES)

    def clips(self, root: Path) -> Iterator[SourceClip]:
        self.annotation(root)
        for source in SOURCES:
            file = root / "json_files" / source.folder / source.json
            if file.is_file():
                yield from _clips(root, source, file)


def _clips(root: Path, source: Source, file: Path) -> Iterator[SourceClip]:
    # The annotations lie in folders of the same names, without audio: the index passes over them. One source wholly
    # without audio is no error here, as the hub's copy brings the annotations of all four.
    places = folders_named(root, source.folder, f"{source.folder}_flac")
    audio = StemIndex(path for place in places for path in audio_files(place))
    for item in stream_objects(file, key="data"):
        if "id" not in item.value or "caption" not in item.value:
            raise CorpusError(
                "an annotation file lacks a key",
                where={"file": file, "byte": item.offset, "key": "id, caption"},
                got=", ".join(item.value),
                expected="id, caption",
            )
        stem = audio_stem(str(item.value["id"]))
        clip_id = f"{source.folder}/{stem}"
        yield source_clip(
            clip_id,
            "train",
            present(ask(clip_id, "caption", item.value["caption"])),
            audio.find(stem),
            looked_for=f"{stem}.flac",
            source_keys={source.key: _recording(source, stem)},
            meta={"part": source.folder},
        )


def _recording(source: Source, stem: str) -> str:
    if source.key == "youtube":
        return stem.removeprefix("Y") if len(stem) == 12 else stem
    return stem.lower() if source.key == "bbc" else stem

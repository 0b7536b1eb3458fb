"""PromptSpeech: style prompts and voice attributes for LibriTTS utterances (speechresearch.github.io/prompttts).

Layout: a CSV (train, and one with `test` in its name) with the header `item_name, spk_id, gender, pitch,
speaking_speed, energy, style_prompt`, and `LibriTTS/<subset>/<speaker>/<chapter>/<item_name>.wav` below the same
folder; the subset is not in the CSV. The CSV's name differs between copies, so it is known by its header.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.adapters.audio_index import StemIndex
from data_prep.adapters.base import SourceClip
from data_prep.adapters.common import CorpusAdapter, csv_header, folders, read_csv, source_clip
from data_prep.adapters.questions import ask_voice

COLUMNS = ("item_name", "spk_id", "gender", "pitch", "speaking_speed", "energy", "style_prompt")
TELLING = {"item_name", "speaking_speed"}


class PromptSpeech(CorpusAdapter):
    name = "promptspeech"
    domain = "speech"
    licence = "prompts: none stated; audio: LibriTTS, CC BY 4.0"
    layouts = ("*.csv", "Real_*/*.csv")

    def accepts(self, path: Path) -> bool:
        return set(csv_header(path)) >= TELLING

    def clips(self, root: Path) -> Iterator[SourceClip]:
        self.annotation(root)
        audio = StemIndex.below(root)
        tables = [path for folder in folders(root, depth=1) for path in sorted(folder.glob("*.csv"))]
        for table in filter(self.accepts, tables):
            split = _split(table.relative_to(root).as_posix().lower())
            for row in read_csv(table, COLUMNS):
                yield _clip(row, split, audio)


def _split(name: str) -> str:
    return "test" if "test" in name else "val" if "val" in name or "dev" in name else "train"


def _clip(row: dict[str, str], split: str, audio: StemIndex) -> SourceClip:
    item = row["item_name"].strip()
    return source_clip(
        item,
        split,
        ask_voice(item, row, row["speaking_speed"]),
        audio.find(item),
        looked_for=f"{item}.wav",
        problem="" if item else "the row has no item_name",
        source_keys={"libritts": item, "speaker": f"libritts-{item.split('_')[0]}"},
    )

"""MusicQA of MU-LLaMA: machine-written questions about music clips (hub `mu-llama/MusicQA`).

Layout: `audios/<6 digits>.wav` and `{Pretrain,Finetune,Eval}MusicQA.json`, lists of
`{"audio_name", "conversation": [{"from": "human", "value"}, {"from": "gpt", "value"}]}`, several for each audio.
Pretrain (MusicCaps) and Finetune (MagnaTagATune) are train, Eval (MTG-Jamendo) is test; there is no val.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.adapters.audio_index import StemIndex, audio_stem
from data_prep.adapters.base import SourceClip
from data_prep.adapters.common import CorpusAdapter, read_json, require_file, source_clip
from data_prep.adapters.questions import ask_native, present
from pipeline.errors import CorpusError

PARTS = {"PretrainMusicQA": "train", "FinetuneMusicQA": "train", "EvalMusicQA": "test"}


class MusicQa(CorpusAdapter):
    name = "musicqa"
    domain = "music"
    licence = "MIT (questions); audio under the terms of MusicCaps, MagnaTagATune and MTG-Jamendo"
    layouts = tuple(f"{part}.json" for part in PARTS)

    def clips(self, root: Path) -> Iterator[SourceClip]:
        """One clip for each audio file with all its conversations; see `Adapter.clips`."""
        files = {part: require_file(root / f"{part}.json", self.name, root, f"{part}.json") for part in PARTS}
        audio = StemIndex.below(root)
        for part, file in files.items():
            turns_of: dict[str, list[tuple[str, str]]] = {}
            for record in _list(read_json(file), file):
                turns_of.setdefault(audio_stem(_name(record, file)), []).append(_turns(record))
            for stem, turns in turns_of.items():
                native = (ask_native(stem, "qa_open", index, *pair) for index, pair in enumerate(turns))
                yield source_clip(
                    stem,
                    PARTS[part],
                    present(*native),
                    audio.find(stem),
                    looked_for=f"{stem}.wav",
                    source_keys={"track": f"musicqa-{stem}"},
                    meta={"part": part},
                )


def _list(data: Any, file: Path) -> list[Any]:
    if not isinstance(data, list):
        raise CorpusError(
            "an annotation file has another shape", where={"file": file}, got=type(data).__name__, expected="a list"
        )
    return data


def _name(record: Any, file: Path) -> str:
    if not isinstance(record, dict) or not isinstance(record.get("audio_name"), str):
        raise CorpusError(
            "an annotation file lacks a key",
            where={"file": file, "key": "audio_name"},
            got=", ".join(record) if isinstance(record, dict) else type(record).__name__,
            expected="audio_name, conversation",
        )
    return str(record["audio_name"])


def _turns(record: dict[str, Any]) -> tuple[str, str]:
    """(question, answer); empty texts, which give no question, where a turn is absent."""
    said: dict[str, str] = {}
    for turn in record.get("conversation") or []:
        if isinstance(turn, dict):
            said.setdefault(str(turn.get("from")), str(turn.get("value") or ""))
    return said.get("human", ""), said.get("gpt", "")

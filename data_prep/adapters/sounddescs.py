"""SoundDescs: archive descriptions of BBC sound effects (github.com/akoepke/audio-retrieval-benchmark).

Layout: `sounddescs_data/{descriptions,categories}.pkl` (id -> text, id -> list), `data/SoundDescs/<split>_list.txt`
with one id a line, and `audios/<id>/<id>.wav` or `<id>.wav`, in lower case. The pickles are read with an allow-list of
plain containers, so a pickle cannot run code.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.adapters.audio_index import StemIndex
from data_prep.adapters.base import SourceClip
from data_prep.adapters.common import CorpusAdapter, clean, file_below, require_file, source_clip
from data_prep.adapters.questions import ask, join_words, present
from pipeline.errors import CorpusError
from pipeline.types import SPLITS

ALLOWED = {
    ("collections", "defaultdict"): collections.defaultdict,
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (dict, list, str)},
}


class SoundDescs(CorpusAdapter):
    name = "sounddescs"
    domain = "sound"
    licence = "BBC RemArc: non-commercial, personal, educational or research use"
    layouts = ("sounddescs_data/descriptions.pkl", "descriptions.pkl")

    def clips(self, root: Path) -> Iterator[SourceClip]:
        """One clip for each listed id: description and category, official splits; see `Adapter.clips`."""
        file = self.annotation(root)
        descriptions = read_pickle(file)
        categories_file = file.with_name("categories.pkl")
        categories = read_pickle(categories_file) if categories_file.is_file() else {}
        lists = {
            split: require_file(file_below(root, name), self.name, root, name)
            for split in SPLITS
            for name in [f"{split}_list.txt"]
        }
        audio = StemIndex.below(root)
        for split, listed in lists.items():
            for line in listed.read_text(encoding="utf-8-sig").splitlines():
                if sound := line.strip().lower():
                    texts = _texts(descriptions.get(sound))
                    kinds = [kind for kind in _texts(categories.get(sound)) if kind != "None"]
                    yield source_clip(
                        sound,
                        split,
                        present(
                            ask(sound, "caption", *texts),
                            ask(sound, "category", join_words(kinds) if kinds else ""),
                        ),
                        audio.find(sound),
                        looked_for=f"{sound}.wav",
                        problem="" if texts else "no description",
                        source_keys={"bbc": sound},
                    )


class _ContainersOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed") from None


def read_pickle(file: Path) -> dict[str, Any]:
    """A pickled mapping of plain containers and text.

    Raises:
        CorpusError: the pickle is broken, no mapping, or asks for any other class or function.
    """
    try:
        with open(file, "rb") as handle:
            value = _ContainersOnly(handle).load()
    except Exception as error:  # a damaged pickle raises nearly any error
        raise CorpusError(
            f"an annotation file is refused: {error}",
            where={"file": file},
            expected="a pickle of defaultdict, dict, list and str alone",
            hint="download it again from the authors' repository",
        ) from None
    if not isinstance(value, dict):
        raise CorpusError(
            "an annotation file has another shape", where={"file": file}, got=type(value).__name__, expected="a dict"
        )
    return value


def _texts(value: Any) -> list[str]:
    """One text or a list of them, cleaned."""
    return [text for item in (value if isinstance(value, list) else [value]) if (text := clean(item))]

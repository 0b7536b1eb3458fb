"""SoundDescs: archive descriptions of BBC sound effects (github.com/akoepke/audio-retrieval-benchmark).

Layout: `sounddescs_data/{descriptions,categories,extra_info}.pkl` (id -> text, list, text), one id a line in
`data/SoundDescs/<split>_list.txt`, and the audio in `audios/<id>/<id>.wav`, as `<id>.wav` (a 16 kHz copy) or still
packed in `zip_audios/<id>/<ID>.wav.zip`; ids in either case. The pickles are read with an allow-list of plain
containers, so a pickle cannot run code.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Iterator, KeysView, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.adapters.audio_index import StemIndex, audio_below, audio_stem
from data_prep.adapters.base import Findings, SourceClip
from data_prep.adapters.common import (
    CorpusAdapter,
    clean,
    file_below,
    note_count,
    require_file,
    source_clip,
    with_audio,
)
from data_prep.adapters.questions import ask, join_words, present
from pipeline.errors import CorpusError
from pipeline.types import SPLITS

ALLOWED = {
    ("collections", "defaultdict"): collections.defaultdict,
    ("collections", "OrderedDict"): collections.OrderedDict,
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (dict, list, tuple, str)},
}
N_LISTED = {"train": 23_085, "val": 4_947, "test": 4_947}
NO_CATEGORY = "None"


class SoundDescs(CorpusAdapter):
    name = "sounddescs"
    domain = "sound"
    licence = "BBC RemArc: non-commercial, personal, educational or research use"
    version = 2
    layouts = ("sounddescs_data/descriptions.pkl", "descriptions.pkl")

    def find(self, root: Path) -> Path | None:
        annotations = super().find(root)
        return None if annotations is None else with_audio(annotations, root, "audios", "zip_audios")

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """One clip for each listed id: description and category, official splits; see `Adapter.clips`."""
        file = self.signature(root) or require_file(
            file_below(root, "descriptions.pkl"), self.name, root, "descriptions.pkl"
        )
        descriptions = _by_id(read_pickle(file))
        categories, extra = (_optional(file.with_name(f"{name}.pkl"), found) for name in ("categories", "extra_info"))
        split_of = self._splits(root, found)
        n_unlisted = len(descriptions.keys() - split_of.keys())
        if n_unlisted:
            found.note(f"{n_unlisted} described sounds are in no split list and are left out")
        audio = _Audio(root, split_of.keys(), found)
        for sound, split in split_of.items():
            texts = _texts(descriptions.get(sound), found)
            kinds = [kind for kind in _flat(categories.get(sound)) if kind != NO_CATEGORY]
            info = clean(extra.get(sound))
            yield source_clip(
                sound,
                split,
                present(ask(sound, "caption", *texts), ask(sound, "category", join_words(kinds) if kinds else "")),
                audio.find(sound, found),
                looked_for=f"{sound}.wav",
                problem="" if texts else "no description",
                source_keys={"bbc": sound},
                meta={"extra_info": info} if info else {},
            )

    def _splits(self, root: Path, found: Findings) -> dict[str, str]:
        """Lower-cased id -> split; an id of several lists belongs to the later of train, val and test."""
        split_of: dict[str, str] = {}
        for split in SPLITS:
            name = f"{split}_list.txt"
            file = require_file(file_below(root, name), self.name, root, name)
            listed = [sound for line in _lines(file) if (sound := line.strip().lower())]
            note_count(found, f"ids in {name}", N_LISTED[split], len(listed))
            n_again = len(listed) - len(set(listed) - split_of.keys())
            if n_again:
                found.note(f"{n_again} ids of {name} are listed more than once; held-out lists win over train")
            split_of |= dict.fromkeys(listed, split)
        return split_of


class _Audio:
    """Audio by id: by its file name, or where that is another, by the folder or archive that carries the id."""

    def __init__(self, root: Path, ids: KeysView[str], found: Findings) -> None:
        files = audio_below(root, found=found)
        self._by_stem = StemIndex(files)
        self._by_folder: dict[str, str | None] = {}
        for path in files:
            if audio_stem(path).lower() not in ids:
                for sound in ids & {_folder_id(part) for part in PurePosixPath(path).parts[-4:-1]}:
                    self._by_folder[sound] = None if sound in self._by_folder else path

    def find(self, sound: str, found: Findings) -> Path | None:
        """The file of a sound id, by its stem, else by the folder of that id; which layout it was is counted."""
        path = self._by_stem.find(sound)
        if path is not None:
            is_nested = _folder_id(path.parent.name) == sound
            is_packed = ".zip!" in str(path)
            found.count("audio layout", "in a zip" if is_packed else "<id>/<id>" if is_nested else "<id>")
            return path
        folder = self._by_folder.get(sound)
        found.count("audio layout", "<id>/<another name>" if folder else "not found")
        return Path(folder) if folder else None


def _folder_id(name: str) -> str:
    return audio_stem(name.lower().removesuffix("!").removesuffix(".zip"))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"a split list cannot be read: {error}", where={"file": file}, expected="one id a line, UTF-8"
        ) from None


class _ContainersOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed") from None


def read_pickle(file: Path) -> dict[Any, Any]:
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


def _by_id(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(sound).strip().lower(): value for sound, value in values.items()}


def _optional(file: Path, found: Findings) -> dict[str, Any]:
    if file.is_file():
        return _by_id(read_pickle(file))
    found.note(f"{file.name} is not there; it is optional")
    return {}


def _texts(value: Any, found: Findings) -> list[str]:
    """The descriptions of one sound. Their public shape is not documented, so that the one met is counted."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        nested = [_flat(item) for item in value]
        # One word an item: what the authors feed to their word embeddings.
        are_words = len(value) > 1 and all(len(item) == 1 and " " not in item[0] for item in nested)
        is_nested = any(isinstance(item, (list, tuple)) for item in value)
        shape = "words" if are_words or is_nested else "list"
        texts = (
            [" ".join(text for item in nested for text in item)] if are_words else [" ".join(item) for item in nested]
        )
    else:
        shape, texts = type(value).__name__, _flat(value)
    found.count("description shape", shape)
    return [text for item in texts if (text := clean(item))]


def _flat(value: Any) -> list[str]:
    """All texts in a text, list or mapping, cleaned, in order."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _flat(item)]
    return [text] if (text := clean(value)) else []

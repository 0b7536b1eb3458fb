"""Which audio files a corpus folder holds, found by name: one directory walk, no decoding."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from pipeline.errors import CorpusError

# In order of preference when one clip is there in several formats.
AUDIO_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm")


def is_litter(name: str) -> bool:
    """Files and folders that macOS archives and hidden tools leave behind; never part of a corpus."""
    return name.startswith(".") or name == "__MACOSX"


def audio_stem(name: str) -> str:
    """File name without folder and audio suffix, in NFC; other dots and spaces belong to the name and stay.

    NFC, because archives packed on macOS spell accents as two code points and annotations as one.
    """
    base = unicodedata.normalize("NFC", PurePosixPath(name).name)
    for suffix in AUDIO_SUFFIXES:
        if base.lower().endswith(suffix):
            return base[: -len(suffix)]
    return base


def audio_files(folder: Path) -> Iterator[str]:
    """Paths of all audio files below `folder` in sorted order, litter left out, symbolic links followed once."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_litter(name))
        for name in sorted(names):
            if name.lower().endswith(AUDIO_SUFFIXES) and not is_litter(name):
                yield os.path.join(place, name)  # noqa: PTH118 -- 400,000 strings cost far less than as many Paths


def audio_below(*folders: Path) -> list[str]:
    """All audio files below `folders`.

    Raises:
        CorpusError: there is none at all, so every clip would be missing.
    """
    files = [path for folder in folders for path in audio_files(folder)]
    if not files:
        raise CorpusError(
            "this corpus has no audio",
            where={"folder": ", ".join(map(str, folders))},
            expected="files ending in " + " ".join(AUDIO_SUFFIXES),
            hint="download or link the audio into this folder; the annotations alone are not enough",
        )
    return files


class StemIndex:
    """Stem -> file, exact or with letters of another case.

    Of files with one stem, the one with the preferred format wins, then the first in path order. A lower-cased stem
    that several exact stems share finds nothing: a wrong clip is worse than a missing one.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self._exact: dict[str, str] = {}
        for path in files:
            known = self._exact.setdefault(audio_stem(path), path)
            if known != path and _preference(path) < _preference(known):
                self._exact[audio_stem(path)] = path
        # Lower-cased stems, only where that is another name; None where several files could be meant.
        self._folded: dict[str, str | None] = {}
        for stem, path in self._exact.items():
            lower = stem.lower()
            if lower != stem:
                is_taken = lower in self._folded or lower in self._exact
                self._folded[lower] = None if is_taken else path

    @classmethod
    def below(cls, *folders: Path) -> StemIndex:
        """Index of all audio below `folders`; CorpusError when there is none."""
        return cls(audio_below(*folders))

    def find(self, *names: str) -> Path | None:
        """The file of the first of `names` (stems or file names) that is there; exact case before other case."""
        stems = [audio_stem(name) for name in names]
        for stem in stems:
            if stem in self._exact:
                return Path(self._exact[stem])
        for stem in stems:
            lower = stem.lower()
            path = self._folded.get(lower, self._exact.get(lower))
            if path is not None:
                return Path(path)
        return None


def _preference(path: str) -> int:
    return AUDIO_SUFFIXES.index(os.path.splitext(path)[1].lower())  # noqa: PTH122

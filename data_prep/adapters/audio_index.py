"""Which audio a corpus folder holds, packed or not, found by name: one directory walk, no decoding."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data_prep.adapters.base import Findings
from data_prep.archives.sources import ARCHIVE_SUFFIXES, AUDIO_SUFFIXES, members
from data_prep.archives.sources import is_litter as is_litter
from pipeline.errors import AudioError, CorpusError

_LISTED = (*AUDIO_SUFFIXES, *ARCHIVE_SUFFIXES)
_UNREAD = "left out, cannot be listed:"


def audio_stem(name: str) -> str:
    """File name without folder and audio suffix, in NFC; other dots and spaces belong to the name and stay.

    NFC, because archives packed on macOS spell accents as two code points and annotations as one.
    """
    base = unicodedata.normalize("NFC", name.rstrip("/").rpartition("/")[2])
    lower = base.lower()
    if lower.endswith(AUDIO_SUFFIXES):
        return next(base[: -len(suffix)] for suffix in AUDIO_SUFFIXES if lower.endswith(suffix))
    return base


def audio_files(folder: Path, found: Findings | None = None) -> Iterator[str]:
    """Paths of all audio below `folder` in sorted order, litter left out, symbolic links followed once.

    Members of zip and parquet files stand, as virtual paths (`data_prep.archives.sources`), where their archive would.
    An archive that cannot be listed is noted in `found`.
    """
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_litter(name))
        for name in sorted(names):
            lower = name.lower()
            if is_litter(name) or not lower.endswith(_LISTED):
                continue
            path = os.path.join(place, name)  # noqa: PTH118 -- 400,000 strings cost far less than as many Paths
            if lower.endswith(ARCHIVE_SUFFIXES):
                yield from _members(path, found)
            else:
                yield path


def audio_below(*folders: Path, found: Findings | None = None) -> list[str]:
    """All audio below `folders`; see `audio_files`.

    Raises:
        CorpusError: there is none at all, so every clip would be missing.
    """
    found = Findings() if found is None else found
    files = [path for folder in folders for path in audio_files(folder, found)]
    if not files:
        unread = [note for note in found.notes if note.startswith(_UNREAD)]
        raise CorpusError(
            "this corpus has no audio",
            where={"folder": ", ".join(map(str, folders))},
            got="; ".join(unread[:3]) or None,
            expected="files ending in " + " ".join(AUDIO_SUFFIXES) + ", or zip or parquet files that hold such",
            hint="download or link the audio into this folder; the annotations alone are not enough",
        )
    return files


def _members(archive: str, found: Findings | None) -> Iterator[str]:
    """Audio of an archive. Of one that is damaged, and named after the one file in it (`<ID>.wav.zip`), that file."""
    try:
        yield from members(Path(archive))
    except AudioError as error:
        name = os.path.basename(archive)  # noqa: PTH119
        only_member = os.path.splitext(name)[0]  # noqa: PTH122
        if only_member.lower().endswith(AUDIO_SUFFIXES):
            yield f"{archive}!/{only_member}"
        elif found is not None:
            found.note(f"{_UNREAD} {name}: {error.what}" + (f" ({error.hint})" if error.hint else ""))


class StemIndex:
    """Stem -> file, exact or with letters of another case.

    Of files with one stem, a plain file wins over a member of an archive (which it was unpacked from, perhaps), then
    the preferred format, then the first in path order. A lower-cased stem that several exact stems share finds nothing:
    a wrong clip is worse than a missing one.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self._exact: dict[str, str] = {}
        for path in files:
            stem = audio_stem(path)
            known = self._exact.setdefault(stem, path)
            if known is not path and _preference(path) < _preference(known):
                self._exact[stem] = path
        # Lower-cased stems, only where that is another name; None where several files could be meant.
        self._folded: dict[str, str | None] = {}
        for stem, path in self._exact.items():
            lower = stem.lower()
            if lower != stem:
                is_taken = lower in self._folded or lower in self._exact
                self._folded[lower] = None if is_taken else path

    @classmethod
    def below(cls, *folders: Path, found: Findings | None = None) -> StemIndex:
        """Index of all audio below `folders`; CorpusError when there is none."""
        return cls(audio_below(*folders, found=found))

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

    def find_by_rule(self, names: Mapping[str, str], found: Findings) -> Path | None:
        """`find` for corpora whose copies name their files differently: rule -> name; the rule that matched is counted.

        The rules are tried in order, each in any case, so that the report says which naming this copy follows.
        """
        for rule, name in names.items():
            path = self.find(name)
            if path is not None:
                found.count("audio name", rule)
                return path
        found.count("audio name", "no rule matched")
        return None


def _preference(path: str) -> tuple[bool, int]:
    return "!/" in path, AUDIO_SUFFIXES.index(os.path.splitext(path)[1].lower())  # noqa: PTH122

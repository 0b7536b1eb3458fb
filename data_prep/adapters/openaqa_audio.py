"""Where a user keeps the audio of OpenAQA: its paths are of the authors' machines, so files are found by their stem.

Stems differ between downloaders, and FSD50K, FreeSound and SoundBible number their files alike; a wrong clip is worse
than a missing one, so a stem of several recordings is only taken from a folder that tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from data_prep.adapters.audio_index import AUDIO_SUFFIXES, StemIndex, audio_below, audio_files, audio_stem
from data_prep.adapters.base import Findings
from data_prep.adapters.path_map import PathMap

VGGSOUND_CLIP_S = 10
YOUTUBE_STEM = re.compile(r"Y?([\w-]{11})(?:_(\d+)(?:_\d+)?)?")
# Names of AudioSet clips that tell the segment, which OpenAQA does not: <id>-[30-40], <id>_30_40.
_SEGMENT_STEM = re.compile(r"Y?([\w-]{11})(?:-\[\d+-\d+\]|_\d+_\d+)")
# <id>_30 could be VGGSound's other segment of the same video, so only below a folder of AudioSet or AudioCaps.
_START_STEM = re.compile(r"Y?([\w-]{11})_\d+")
_START_FOLDERS = ("audioset", "audiocaps")


class OpenAqaAudio:
    """Audio below the corpus folder and below the folders of the user's path map.

    `shared` are the stems that several recordings of the annotations have.

    Raises:
        CorpusError: there is no audio at all and no path map.
    """

    def __init__(self, root: Path, path_map: PathMap, shared: Collection[str], found: Findings) -> None:
        self._root, self._map, self._shared = root, path_map, shared
        self._mapped = [_Place(audio_files(rule.folder, found), shared) for rule in path_map.rules]
        self._below = _Place(audio_files(root, found) if path_map.rules else audio_below(root, found=found), shared)

    def find(self, collection: str, stem: str, path: str, found: Findings) -> Path | None:
        """The file of a recording: `stem` in its `collection` (`audioset` ...), at `path` on the authors' machine.

        `collection` is "" when the recording is known by its path alone.
        """
        mapped = self._map.find(path)
        if self._map.rules:
            rule = self._map.rules[mapped[0]].pattern.pattern if mapped else "no rule matched"
            found.count("path map", rule)
        place = self._mapped[mapped[0]] if mapped else self._below
        if not collection:
            folder = self._map.rules[mapped[0]].folder if mapped else self._root
            file = _file_at(folder, mapped[1] if mapped else path)
            if file is not None:
                found.count("audio name", "same path")
                return file
        if stem in self._shared:
            return place.find_apart(collection, stem, path, found)
        names = _names(collection, stem)
        segment = place.segments.get(names.get("youtube id", ""))
        if segment is not None and place.index.find(*names.values()) is None:
            found.count("audio name", "youtube id and segment")
            return Path(segment)
        return place.index.find_by_rule(names, found)


class _Place:
    """The files below one folder, by stem; `segments` are those of a YouTube id whose name tells the segment."""

    def __init__(self, paths: Iterable[str], shared: Collection[str]) -> None:
        files = list(paths)
        self.index = StemIndex(files)
        self.segments: dict[str, str] = {}
        self._of_stem: dict[str, list[str]] = {}
        several: set[str] = set()
        for path in files:
            stem = audio_stem(path)
            if stem in shared:
                self._of_stem.setdefault(stem, []).append(path)
            match = _SEGMENT_STEM.fullmatch(stem) or _START_STEM.fullmatch(stem)
            if match is None or (match.re is _START_STEM and not _is_below(path, *_START_FOLDERS)):
                continue
            if self.segments.setdefault(match[1], path) != path:
                several.add(match[1])
        for youtube_id in several:  # two segments of one video: which one is asked about is not known
            del self.segments[youtube_id]

    def find_apart(self, collection: str, stem: str, path: str, found: Findings) -> Path | None:
        """A file of a stem that several recordings have: in a folder of `collection`, or else in the same folders."""
        files = self._of_stem.get(stem, [])
        rules = {
            "stem of several recordings, folder of its collection": [
                file for file in files if collection and _is_below(file, collection)
            ],
            "stem of several recordings, same folders": _same_folders(files, path),
        }
        for rule, choice in rules.items():
            if len(choice) == 1:
                found.count("audio name", rule)
                return Path(choice[0])
        found.count("audio name", "stem of several recordings, none told apart" if files else "no rule matched")
        return None


def _names(collection: str, stem: str) -> dict[str, str]:
    """Rule -> stem that downloaders give to the clip."""
    names = {"as in the annotation": stem}
    match = YOUTUBE_STEM.fullmatch(stem) if collection in ("audioset", "vggsound") else None
    if match is None:
        return names
    youtube_id, start = match[1], match[2]
    if collection == "audioset":
        return {**names, "youtube id": youtube_id, "Y and youtube id": f"Y{youtube_id}"}
    if start is not None:
        start_s = int(start)
        names["start padded"] = f"{youtube_id}_{start_s:06d}"
        names["start not padded"] = f"{youtube_id}_{start_s}"
        names["start and end"] = f"{youtube_id}-[{start_s}-{start_s + VGGSOUND_CLIP_S}]"
    return names


def _is_below(path: str, *names: str) -> bool:
    """Whether a folder of `path` has one of `names` in its own name, however that is spelled."""
    folders = re.sub(r"[^a-z0-9/]", "", path.rpartition("/")[0].lower())
    return any(name in folders for name in names)


def _same_folders(files: list[str], path: str) -> list[str]:
    """Those of `files` that agree with `path` in most folders, counted from the file up; none without a common one."""
    wanted = PurePosixPath(path).parts[-2::-1]
    common = {file: _n_equal(PurePosixPath(file).parts[-2::-1], wanted) for file in files}
    most = max(common.values(), default=0)
    return [file for file, n in common.items() if n == most > 0]


def _n_equal(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def _file_at(folder: Path, path: str) -> Path | None:
    """`path` below `folder`, in any audio format; never outside of it."""
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        return None
    named = folder / path
    stem = audio_stem(named.name)
    files = (named, *(named.with_name(stem + suffix) for suffix in AUDIO_SUFFIXES))
    return next((file for file in files if file.is_file()), None)

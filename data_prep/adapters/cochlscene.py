"""CochlScene: ten-second recordings of 13 acoustic scenes by many contributors (Zenodo 7080122).

Layout: `{Train,Val,Test}/<Scene>/<Scene>_user<id>_<number>_<number>.wav`. Split and label come from the folders;
`Data_info.tsv` (path, label number, split; no header), when there, tells which files are missing and is compared with
the folders. The prefix of its paths differs between copies: only their end is used.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.adapters.audio_index import audio_below, audio_stem
from data_prep.adapters.base import Findings, SourceClip
from data_prep.adapters.common import CorpusAdapter, file_below, folders, note_count, source_clip
from data_prep.adapters.questions import ask, choices, present
from pipeline.errors import CorpusError

FOLDERS = {"train": "Train", "val": "Val", "test": "Test"}
SPLIT_OF = {folder.lower(): split for split, folder in FOLDERS.items()}
N_CLIPS = {"train": 60_855, "val": 7_573, "test": 7_687}
SCENES = {
    "Bus": "bus",
    "Cafe": "cafe",
    "Car": "car",
    "CrowdedIndoor": "crowded indoor place",
    "Elevator": "elevator",
    "Kitchen": "kitchen",
    "Park": "park",
    "ResidentialArea": "residential area",
    "Restaurant": "restaurant",
    "Restroom": "restroom",
    "Street": "street",
    "Subway": "subway",
    "SubwayStation": "subway station",
}
USER = re.compile(r"_user(\d+)_")


@dataclass(frozen=True)
class _Place:
    """Where a clip belongs, from a folder or from a row of the list."""

    split: str
    scene: str
    name: str

    @property
    def clip_id(self) -> str:
        return f"{FOLDERS[self.split]}/{self.scene}/{self.name}"


class CochlScene(CorpusAdapter):
    name = "cochlscene"
    domain = "sound"
    licence = "CC BY-SA 3.0"
    version = 2
    layouts = ("Data_info.tsv",)

    def find(self, root: Path) -> Path | None:
        return next((folder for folder in folders(root) if _has_scenes(folder)), None) or super().find(root)

    def accepts(self, path: Path) -> bool:
        # Beside a zip that was not unpacked, the list is all that tells.
        return next(_listed(path), None) is not None

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """One clip for each file of the three split folders: its scene; then those that only the list names.

        See `Adapter.clips`.
        """
        files: dict[_Place, str] = {}
        for path in audio_below(root, found=found):
            if place := _place(Path(path).relative_to(root).as_posix()):
                files.setdefault(place, path)
        for split, folder in FOLDERS.items():
            n_files = sum(place.split == split for place in files)
            if not n_files:
                raise CorpusError(
                    "an audio folder of the corpus is absent or empty",
                    where={"corpus": self.name, "looked for": f"{folder}/<scene>/", "below": root},
                    expected=f"{folder}/ with a folder for each scene",
                    hint="join the parts first: zip -s 0 CochlScene.zip --out whole.zip && unzip whole.zip",
                )
            note_count(found, f"files in {folder}/", N_CLIPS[split], n_files)
        for split in FOLDERS:
            yield from (_clip(place, Path(path)) for place, path in files.items() if place.split == split)
        listed = dict(_listed(file_below(root, self.layouts[0])))
        split_of = {place.name: place.split for place in files}
        for place in listed:
            if place.name not in split_of:
                yield _clip(place, None)
        _compare(files, listed, split_of, found)


def _has_scenes(folder: Path) -> bool:
    return any((folder / part / scene).is_dir() for part in FOLDERS.values() for scene in SCENES)


def _place(path: str) -> _Place | None:
    """What the last three parts of a path say; None outside of the split folders."""
    parts = path.split("/")[-3:]
    split = SPLIT_OF.get(parts[0].lower()) if len(parts) == 3 else None
    return _Place(split, parts[1], parts[2]) if split else None


def _clip(place: _Place, audio: Path | None) -> SourceClip:
    clip_id, words = place.clip_id, SCENES.get(place.scene)
    user = USER.search(place.name)
    questions = []
    if words is not None:
        options = choices(clip_id, words, list(SCENES.values()))
        questions = present(
            ask(clip_id, "scene", words), ask(clip_id, "scene", words, pool="scene_choice", options=options)
        )
    return source_clip(
        clip_id,
        place.split,
        questions,
        audio,
        looked_for=place.name,
        problem="" if words else f"{place.scene} is not one of the 13 scenes",
        # The name too, as a file that lies in the folders of two splits is one recording.
        source_keys={"cochlscene": audio_stem(place.name), **({"user": f"cochl-{user[1]}"} if user else {})},
    )


def _listed(table: Path | None) -> Iterator[tuple[_Place, str]]:
    """(place, path as listed) of each row; rows of other shapes, such as the header of some copy, are passed over.

    The scene is the folder in the path, or the beginning of the file's name in copies that list no folder.
    """
    if table is None:
        return
    with open(table, encoding="utf-8-sig", errors="replace", newline="") as lines:
        for row in csv.reader(lines, delimiter="\t"):
            split = SPLIT_OF.get(row[2].strip().lower()) if len(row) > 2 else None
            if split:
                path = PurePosixPath(row[0].strip().replace("\\", "/"))
                scene = path.parent.name if path.parent.name in SCENES else path.name.split("_user")[0]
                yield _Place(split, scene, path.name), row[0]


def _compare(files: Iterable[_Place], listed: dict[_Place, str], split_of: dict[str, str], found: Findings) -> None:
    """What folders, names and list say against each other; the folders are right where they differ."""
    found.fact("Data_info.tsv", f"{len(listed)} rows, first {next(iter(listed.values()))}" if listed else "not there")
    for place in files:
        named = place.name.split("_user")[0]
        found.count("scene", place.scene)
        if named != place.scene:
            found.count("scene in the name of the file", f"{named} in {place.scene}/")
    if listed:
        listed_names = {place.name: place.split for place in listed}
        extra = sum(name not in listed_names for name in split_of)
        moved = sum(split_of.get(name, split) != split for name, split in listed_names.items())
        gone = sum(name not in split_of for name in listed_names)
        for n, what in (
            (gone, "files of Data_info.tsv are missing"),
            (extra, "files are not in Data_info.tsv; they are used"),
            (moved, "files lie in the folder of another split than Data_info.tsv says; the folder is used"),
        ):
            if n:
                found.note(f"{n} {what}")
    users: dict[str, set[str]] = {}
    for place in files:
        if user := USER.search(place.name):
            users.setdefault(user[1], set()).add("train" if place.split == "train" else "held out")
    both = sum(len(sides) > 1 for sides in users.values())
    if both:
        found.note(f"{both} of {len(users)} contributors are in train and in val or test")

"""CochlScene: ten-second recordings of 13 acoustic scenes by many contributors (Zenodo 7080122).

Layout: `{Train,Val,Test}/<Scene>/<Scene>_user<id>_<number>_<number>.wav`. Split and label come from the folders;
`Data_info.tsv` (path, label, split; no header), when there, tells which files are missing.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_prep.adapters.audio_index import audio_below
from data_prep.adapters.base import SourceClip
from data_prep.adapters.common import CorpusAdapter, folders, source_clip
from data_prep.adapters.questions import ask, choices, present
from pipeline.errors import CorpusError

FOLDERS = {"train": "Train", "val": "Val", "test": "Test"}
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


class CochlScene(CorpusAdapter):
    name = "cochlscene"
    domain = "sound"
    licence = "CC BY-SA 3.0"

    def find(self, root: Path) -> Path | None:
        return next((folder for folder in folders(root) if _has_scenes(folder)), None)

    def clips(self, root: Path) -> Iterator[SourceClip]:
        """One clip for each file of the three split folders: its scene; see `Adapter.clips`."""
        for folder in FOLDERS.values():
            if not (root / folder).is_dir():
                raise CorpusError(
                    "an audio folder of the corpus is absent",
                    where={"corpus": self.name, "looked for": f"{folder}/", "below": root},
                    hint="join the parts first: zip -s 0 CochlScene.zip --out whole.zip && unzip whole.zip",
                )
        split_of = {folder: split for split, folder in FOLDERS.items()}
        found = set()
        for file in audio_below(*(root / folder for folder in FOLDERS.values())):
            path = Path(file)
            place = path.relative_to(root)
            found.add(path.name)
            yield _clip(split_of[place.parts[0]], place.as_posix(), path)
        for clip_id, split in _listed(root / "Data_info.tsv", split_of):
            if PurePosixPath(clip_id).name not in found:
                yield _clip(split, clip_id, None)


def _has_scenes(folder: Path) -> bool:
    return any((folder / part / scene).is_dir() for part in FOLDERS.values() for scene in SCENES)


def _clip(split: str, clip_id: str, audio: Path | None) -> SourceClip:
    place = PurePosixPath(clip_id)
    scene, name = place.parent.name, place.name
    words = SCENES.get(scene)
    user = USER.search(name)
    questions = []
    if words is not None:
        options = choices(clip_id, words, list(SCENES.values()))
        questions = present(
            ask(clip_id, "scene", words), ask(clip_id, "scene", words, pool="scene_choice", options=options)
        )
    return source_clip(
        clip_id,
        split,
        questions,
        audio,
        looked_for=name,
        problem="" if words else f"{scene} is not one of the 13 scenes",
        source_keys={"user": f"cochl-{user[1]}"} if user else {},
    )


def _listed(table: Path, split_of: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(clip id, split) of each row; the prefix of its path differs between copies, so only its end is used."""
    if not table.is_file():
        return
    with open(table, encoding="utf-8-sig", errors="replace", newline="") as lines:
        for row in csv.reader(lines, delimiter="\t"):
            if len(row) >= 3 and row[2] in split_of:
                name = PurePosixPath(row[0]).name
                yield f"{row[2]}/{name.split('_user')[0]}/{name}", split_of[row[2]]

"""MACS: two to five captions with tags for each of 3,930 urban recordings (Zenodo 5114771, audio 2589280).

Layout: `MACS.yaml`, optional `MACS_competence.csv` and TAU's `meta.csv` (both tab separated), and the wavs of TAU Urban
Acoustic Scenes 2019: all beside each other (`audio/`, `tau_meta/`, as aac-datasets puts them), or as published, in
`TAU-urban-acoustic-scenes-2019-development/` beside the annotations or beside their folder. No official split: whole
recording locations are dealt by hash, 10 % val and 10 % test, or TAU's first fold is taken.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from data_prep.adapters.audio_index import StemIndex, audio_stem
from data_prep.adapters.base import AdapterOptions, Findings, SourceClip
from data_prep.adapters.common import (
    CorpusAdapter,
    clean,
    csv_header,
    file_below,
    folders,
    note_count,
    read_csv,
    require_file,
    source_clip,
    split_groups,
    with_audio,
)
from data_prep.adapters.questions import ask, ask_captions, join_words, present
from pipeline.errors import CorpusError

N_CLIPS, N_CAPTIONS = 3_930, 17_275
# <scene>-<city>-<location>-<segment>-<device>
TAU_NAME = re.compile(r"(?P<scene>[a-z_]+)-(?P<location>[a-z_]+-\d+)-\d+-[a-z0-9]+")
TAU_FOLDERS = "TAU-urban-acoustic-scenes-2019*"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class MacsOptions(AdapterOptions):
    """`split`: "location" deals whole recording locations to train, val and test; "fold1" takes the lists of TAU's
    `evaluation_setup/`: fold1_train is train, fold1_evaluate test, and what is in neither (TAU leaves it out) is too.
    """

    split: Literal["location", "fold1"] = "location"


class Macs(CorpusAdapter):
    name = "macs"
    domain = "sound"
    licence = "Tampere University licence: research, non-commercial"
    version = 2
    layouts = ("MACS.yaml",)
    options_type = MacsOptions
    options: MacsOptions

    def find(self, root: Path) -> Path | None:
        annotations = super().find(root)
        return None if annotations is None else with_audio(annotations, root, "audio", TAU_FOLDERS)

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """One clip for each file: captions of its annotators, tags, scene; split by location; see `Adapter.clips`."""
        files = _read_yaml(require_file(file_below(root, self.layouts[0]), self.name, root, self.layouts[0]))
        audio = StemIndex.below(root, found=found)
        competence = _competence(root, found)
        meta = _tau_meta(root, found)
        places = {name: _place(name, meta, found) for name, _ in files}
        split_of = self._splits(root, {name: location for name, (_, location) in places.items()}, found)
        note_count(found, "clips", N_CLIPS, len(files))
        note_count(found, "captions", N_CAPTIONS, sum(len(notes) for _, notes in files))
        for name, notes in files:
            scene, location = places[name]
            clip_id, split = audio_stem(name), split_of.get(name)
            captions = [text for note in notes if (text := clean(note.get("sentence")))]
            found.count("captions a clip", str(len(captions)))
            tags = _agreed_tags(notes, competence, found)
            yield source_clip(
                clip_id,
                split or "train",
                [
                    *ask_captions(clip_id, split or "train", captions),
                    *present(
                        ask(clip_id, "tags", join_words(tags) if tags else ""),
                        ask(clip_id, "scene", scene.replace("_", " ")),
                    ),
                ],
                audio.find(name),
                looked_for=name,
                blacklisted="" if split else "in none of the lists of TAU's first fold",
                source_keys={"location": f"tau-{location}", "tau": clip_id},
            )

    def _splits(self, root: Path, location_of: dict[str, str], found: Findings) -> dict[str, str]:
        """Split by file name; with `fold1` a file that no list names has none."""
        if self.options.split == "location":
            dealt = split_groups(set(location_of.values()))
            found.note("split: recording locations dealt by hash, about 80 % train, 10 % val, 10 % test")
            return {name: dealt[location] for name, location in location_of.items()}
        lists = {
            "train": file_below(root, "fold1_train.csv"),
            "test": file_below(root, "fold1_evaluate.csv") or file_below(root, "fold1_test.csv"),
        }
        split_of = {}
        for split, path in lists.items():
            file = require_file(path, self.name, root, f"evaluation_setup/fold1_{split}.csv")
            for row in read_csv(file, ("filename",), delimiter="\t"):
                split_of[PurePosixPath(row["filename"]).name] = split
        used = {name: split_of[name] for name in location_of if name in split_of}
        sides = Counter(location for location, _ in {(location_of[name], split) for name, split in used.items()})
        shared = sum(n > 1 for n in sides.values())
        found.note(
            f"split: TAU's first fold; {len(location_of) - len(used)} clips are in none of its lists and left out, "
            f"{shared} of {len(sides)} locations are in train and in test"
        )
        return used


def _read_yaml(file: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """(file name, annotations) of each clip."""
    try:
        files = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=_Loader)["files"]
        if all(
            entry["filename"] and all(isinstance(note, dict) for note in [*entry["annotations"]]) for entry in files
        ):
            return [(PurePosixPath(entry["filename"]).name, entry["annotations"]) for entry in files]
        problem = "an entry is empty"
    except yaml.YAMLError as error:
        problem = str(error).splitlines()[0]
    except (KeyError, TypeError) as error:
        problem = f"a key is absent: {error}"
    except UnicodeDecodeError as error:
        problem = str(error)
    raise CorpusError(
        f"an annotation file cannot be read: {problem}",
        where={"file": file},
        expected="files: a list of filename and annotations",
        hint="download it again from Zenodo 5114771",
    )


def _competence(root: Path, found: Findings) -> dict[str, float]:
    """Competence by annotator; the column of their ids is `annotator_id` in the file and `id` in its description."""
    file = file_below(root, "MACS_competence.csv")
    if file is None:
        found.note("no MACS_competence.csv: all annotators of the tags count alike")
        return {}
    header = _tab_header(file)
    column = "id" if "id" in header and "annotator_id" not in header else "annotator_id"
    found.fact("columns of MACS_competence.csv", " ".join(header))
    rows = read_csv(file, (column, "competence"), delimiter="\t")
    try:
        return {row[column].strip(): float(row["competence"]) for row in rows}
    except ValueError as error:
        raise CorpusError(f"a competence is not a number: {error}", where={"file": file}, expected="0 to 1") from None


def _tau_meta(root: Path, found: Findings) -> dict[str, tuple[str, str]]:
    """(scene, location) by file name, from TAU's meta.csv; its file names carry the folder `audio/`."""
    all_files = (folder / "meta.csv" for folder in folders(root))
    # Other corpora near by may have a meta.csv too.
    file = next((path for path in all_files if path.is_file() and "scene_label" in _tab_header(path)), None)
    if file is None:
        found.note("no meta.csv of TAU: scenes and locations are read from the names of the files")
        return {}
    found.fact("columns of meta.csv", " ".join(_tab_header(file)))
    rows = read_csv(file, ("filename", "scene_label", "identifier"), delimiter="\t")
    return {PurePosixPath(row["filename"]).name: (row["scene_label"], row["identifier"]) for row in rows}


def _tab_header(file: Path) -> list[str]:
    return [name.strip() for name in ",".join(csv_header(file)).split("\t")]


def _place(name: str, meta: dict[str, tuple[str, str]], found: Findings) -> tuple[str, str]:
    """(scene, location) of a file; a file of unknown place is a location of its own, and has no scene."""
    match = TAU_NAME.fullmatch(audio_stem(name))
    if name in meta:
        found.count("scene and location", "meta.csv")
        return meta[name]
    found.count("scene and location", "name of the file" if match else "unknown")
    return (match["scene"], match["location"]) if match else ("", audio_stem(name))


def _agreed_tags(notes: list[dict[str, Any]], competence: dict[str, float], found: Findings) -> list[str]:
    """Tags that annotators with more than half of the clip's competence gave; without competences, a majority."""
    votes: dict[str, float] = {}
    all_weights = 0.0
    for note in notes:
        annotator = str(note.get("annotator_id"))
        if competence and annotator not in competence:
            found.count("annotator without competence, counted as 1", annotator)
        weight = competence.get(annotator, 1.0)
        all_weights += weight
        tags = note.get("tags") or []
        for tag in {tags} if isinstance(tags, str) else set(tags):
            votes[tag] = votes.get(tag, 0.0) + weight
            found.count("tag", str(tag))
    return sorted(clean(str(tag).replace("_", " ")) for tag, vote in votes.items() if vote > all_weights / 2)

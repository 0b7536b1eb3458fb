"""MACS: two to five captions with tags for each of 3,930 urban recordings (Zenodo 5114771, audio 2589280).

Layout: `MACS.yaml`, optional `MACS_competence.csv` and TAU's `meta.csv` (both tab separated), and the TAU Urban
Acoustic Scenes 2019 wavs anywhere below. No official split: whole recording locations are dealt by hash, 10 % val and
10 % test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from data_prep.adapters.audio_index import StemIndex, audio_stem
from data_prep.adapters.base import SourceClip
from data_prep.adapters.common import CorpusAdapter, clean, file_below, read_csv, source_clip, split_groups
from data_prep.adapters.questions import ask, ask_captions, join_words, present
from pipeline.errors import CorpusError

# <scene>-<city>-<location>-<segment>-<device>
TAU_NAME = re.compile(r"(?P<scene>[a-z_]+)-(?P<location>[a-z_]+-\d+)-\d+-[a-z0-9]+")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Macs(CorpusAdapter):
    name = "macs"
    domain = "sound"
    licence = "Tampere University licence: research, non-commercial"
    layouts = ("MACS.yaml",)

    def clips(self, root: Path) -> Iterator[SourceClip]:
        """One clip for each file: captions of its annotators, tags, scene; split by location; see `Adapter.clips`."""
        files = _read_yaml(self.annotation(root))
        audio = StemIndex.below(root)
        competence = _competence(root)
        scenes = _tau_meta(root)
        places = {name: scenes.get(name) or _from_name(name) for name in (entry["filename"] for entry in files)}
        split_of = split_groups({location for _, location in places.values()})
        for entry in files:
            name = entry["filename"]
            scene, location = places[name]
            clip_id, split = audio_stem(name), split_of[location]
            notes = entry["annotations"]
            captions = [text for note in notes if (text := clean(note.get("sentence")))]
            tags = _agreed_tags(notes, competence)
            yield source_clip(
                clip_id,
                split,
                [
                    *ask_captions(clip_id, split, captions),
                    *present(
                        ask(clip_id, "tags", join_words(tags) if tags else ""),
                        ask(clip_id, "scene", scene.replace("_", " ")),
                    ),
                ],
                audio.find(name),
                looked_for=name,
                source_keys={"location": f"tau-{location}", "tau": clip_id},
            )


def _read_yaml(file: Path) -> list[dict[str, Any]]:
    try:
        files = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=_Loader)["files"]
        if all(entry["filename"] and isinstance(entry["annotations"], list) for entry in files):
            return list(files)
        problem = "an entry is empty"
    except yaml.YAMLError as error:
        problem = str(error).splitlines()[0]
    except (KeyError, TypeError) as error:
        problem = f"a key is absent: {error}"
    raise CorpusError(
        f"an annotation file cannot be read: {problem}",
        where={"file": file},
        expected="files: a list of filename and annotations",
    )


def _competence(root: Path) -> dict[str, float]:
    file = file_below(root, "MACS_competence.csv")
    rows = read_csv(file, ("annotator_id", "competence"), delimiter="\t") if file else []
    try:
        return {row["annotator_id"]: float(row["competence"]) for row in rows}
    except ValueError as error:
        raise CorpusError(f"a competence is not a number: {error}", where={"file": file}, expected="0 to 1") from None


def _tau_meta(root: Path) -> dict[str, tuple[str, str]]:
    """(scene, location) by file name, from TAU's meta.csv; its file names carry the folder `audio/`."""
    file = file_below(root, "meta.csv")
    rows = read_csv(file, ("filename", "scene_label", "identifier"), delimiter="\t") if file else []
    return {PurePosixPath(row["filename"]).name: (row["scene_label"], row["identifier"]) for row in rows}


def _from_name(name: str) -> tuple[str, str]:
    match = TAU_NAME.fullmatch(audio_stem(name))
    return (match["scene"], match["location"]) if match else ("", audio_stem(name))


def _agreed_tags(notes: list[dict[str, Any]], competence: dict[str, float]) -> list[str]:
    """Tags that annotators with more than half of the clip's competence gave; without competences, a majority."""
    weights = [competence.get(str(note.get("annotator_id")), 1.0) for note in notes]
    votes: dict[str, float] = {}
    for note, weight in zip(notes, weights, strict=True):
        for tag in set(note.get("tags") or []):
            votes[tag] = votes.get(tag, 0.0) + weight
    return sorted(clean(tag.replace("_", " ")) for tag, vote in votes.items() if vote > sum(weights) / 2)

"""AudioCaps: captions of ten-second AudioSet clips (github.com/cdjkim/audiocaps).

Tables: v1 in `dataset/` (CRLF), `csv_files_v1/` or the corpus folder itself, one caption a clip in train and five in
val and test; v2 in `dataset2.0/` or `csv_files_v2/` (lower case, several captions a clip in train too). Columns:
`audiocap_id,youtube_id,start_time,caption`. Rows of one clip are not adjacent. `train_fixed.csv`, once `train_v2.csv`
(not AudioCaps 2.0), is v1's train with corrected captions. WavCaps' copy has `csv_files/<split>.csv` with a row a clip,
`file_name,caption` or `file_name,caption_1,...`. The audio lies anywhere below, named by whichever downloader was used,
see `_names`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data_prep.adapters.audio_index import StemIndex, audio_below, audio_stem
from data_prep.adapters.base import AdapterOptions, Findings, SourceClip
from data_prep.adapters.common import (
    CorpusAdapter,
    clean,
    csv_header,
    file_below,
    files_in,
    note_count,
    read_csv,
    require_file,
    source_clip,
)
from data_prep.adapters.questions import ask_captions
from pipeline.errors import CorpusError
from pipeline.types import SPLITS

CLIP_S = 10
COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
FOLDERS = {"v1": (".", "dataset", "csv_files_v1", "csv_files"), "v2": ("dataset2.0", "csv_files_v2")}
FIXED = ("train_fixed.csv", "train_v2.csv")
N_CLIPS = {"train": 49_838, "val": 495, "test": 975}
N_CLIPS_FIXED = 49_810
N_CAPTIONS_V2_TRAIN = 91_256
# Names that the folder of a split has in public copies.
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
WAVCAPS_NAME = re.compile(r"Y(?P<id>[\w-]{11})")


class AudioCapsOptions(AdapterOptions):
    """`version`: which captions; by default v1 where it is there, else v2. The clips of val and test are the same.

    `train`: "fixed" takes the corrected captions of v1's train, from `train_fixed.csv` or `train_v2.csv`.
    """

    version: Literal["v1", "v2"] | None = None
    train: Literal["original", "fixed"] = "original"


@dataclass
class _Clip:
    """All rows of one clip. `file_name` is "" but in WavCaps' tables, `start_s` None where the table has none."""

    youtube_id: str
    start_s: int | None = None
    file_name: str = ""
    audiocap_ids: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


class AudioCaps(CorpusAdapter):
    name = "audiocaps"
    domain = "sound"
    licence = "MIT (captions), academic use only by its README; audio belongs to the YouTube uploaders"
    version = 2
    max_missing_fraction = 0.25  # 7 % of the videos were gone years ago, and more go every year
    layouts = tuple(
        f"{folder}/{name}".removeprefix("./")
        for places in FOLDERS.values()
        for folder in places
        for name in ("train.csv", *FIXED)
    )
    options_type = AudioCapsOptions
    options: AudioCapsOptions

    def accepts(self, path: Path) -> bool:
        # Many corpora have a train.csv. One of the two telling columns is enough, so that `clips` can name a lost one.
        return not {"audiocap_id", "youtube_id"}.isdisjoint(csv_header(path)) or _is_of_wavcaps(path)

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """One clip for each YouTube id, in train one question a caption, elsewhere all references in one.

        See `Adapter.clips`.
        """
        version, tables = self._tables(root, found)
        files = audio_below(root, found=found)
        everywhere = StemIndex(files)
        for split, table in tables.items():
            # Some copies hold a clip in the folders of two splits: that of its own split is the right one.
            own = StemIndex(files_in(files, root, *SPLIT_FOLDERS[split]))
            clips = _read_wavcaps(table) if _is_of_wavcaps(table) else _read(table)
            n_starts = _count_starts(clips)
            for clip in clips:
                found.count(f"captions a clip in {split}", str(len(clip.captions)))
                yield _source_clip(clip, split, n_starts[clip.youtube_id] > 1, (own, everywhere), found)
            self._compare(version, split, table, clips, found)

    def _tables(self, root: Path, found: Findings) -> tuple[str, dict[str, Path]]:
        """(version, table of each split)."""
        self.annotation(root)
        at = {version: place for version in FOLDERS if (place := self._folder(root, version)) is not None}
        version: str = self.options.version or next(iter(at))
        if version not in at:
            raise CorpusError(
                "this version of the corpus is absent",
                where={"corpus": self.name, "option": f"{self.name}.version", "below": root},
                got=" ".join(at),
                expected=" or ".join(f"{folder}/train.csv" for folder in FOLDERS[version]),
                hint=f"leave the option out, or download {FOLDERS[version][1]}/ of github.com/cdjkim/audiocaps",
            )
        folder = at[version]
        tables = {split: folder / f"{split}.csv" for split in SPLITS}
        fixed = next((file for name in FIXED if (file := file_below(root, name))), None)
        if version == "v1" and self.options.train == "original" and not tables["train"].is_file() and fixed:
            found.note(f"there is no train.csv: train is {fixed.name}, the corrected captions")
            tables["train"] = fixed
        elif self.options.train == "fixed":
            tables["train"] = require_file(fixed if version == "v1" else None, self.name, root, FIXED[0])
        for file in tables.values():
            require_file(file, self.name, root, file.name)
        found.fact("captions", f"{version}, " + " ".join(file.relative_to(root).as_posix() for file in tables.values()))
        if len(at) > 1:
            found.note(f"v1 and v2 are both there: {version} is taken (option {self.name}.version)")
        return version, tables

    def _folder(self, root: Path, version: str) -> Path | None:
        """The folder with the tables of a version."""
        return next(
            (
                root / folder
                for folder in FOLDERS[version]
                for name in ("train.csv", *FIXED)
                if (root / folder / name).is_file() and self.accepts(root / folder / name)
            ),
            None,
        )

    def _compare(self, version: str, split: str, table: Path, clips: list[_Clip], found: Findings) -> None:
        """What was read against the published counts; of v2's train only the number of captions is published."""
        if split == "train" and version == "v2":
            n_captions = sum(len(clip.captions) for clip in clips)
            note_count(found, "captions in split train of v2", N_CAPTIONS_V2_TRAIN, n_captions)
        else:
            n_expected = N_CLIPS_FIXED if table.name in FIXED else N_CLIPS[split]
            note_count(found, f"clips in split {split}", n_expected, len(clips))


def _source_clip(
    clip: _Clip, split: str, shares_video: bool, indices: tuple[StemIndex, StemIndex], found: Findings
) -> SourceClip:
    """`shares_video`: the table has several windows of this video, so its id alone does not name the clip."""
    names = _names(clip, shares_video)
    own, everywhere = indices
    index = own if own.find(*names.values()) else everywhere
    clip_id = f"{clip.youtube_id}_{clip.start_s}" if shares_video else clip.youtube_id
    return source_clip(
        clip_id,
        split,
        ask_captions(clip_id, split, clip.captions),
        index.find_by_rule(names, found),
        looked_for=" or ".join(list(names.values())[:3]),
        source_keys={"youtube": clip.youtube_id},
        meta={} if clip.start_s is None else {"start_time_s": clip.start_s},
    )


def _names(clip: _Clip, shares_video: bool) -> dict[str, str]:
    """Stems that downloaders give to a clip by the rule that makes them, the most telling first."""
    youtube_id, start_s = clip.youtube_id, clip.start_s
    names = {"as in the table": clip.file_name} if clip.file_name else {}
    if start_s is not None:
        names["{id}_{start}"] = f"{youtube_id}_{start_s}"
    if not shares_video:
        names["{id}"] = youtube_id
        names["Y{id}"] = f"Y{youtube_id}"
    for number, audiocap_id in enumerate(clip.audiocap_ids, start=1):
        names["{audiocap_id}" if number == 1 else f"{{audiocap_id}} of caption {number}"] = audiocap_id
    if start_s is not None:
        names["{id}-[{start}-{end}]"] = f"{youtube_id}-[{start_s}-{start_s + CLIP_S}]"
        names["{id}_{start in ms}"] = f"{youtube_id}_{start_s * 1000}"
    return names


def _read(table: Path) -> list[_Clip]:
    """Clips of a table with one caption a row, in the order of their first rows."""
    clips: dict[tuple[str, int | None], _Clip] = {}
    for row in read_csv(table, COLUMNS):
        youtube_id, start_s = row["youtube_id"].strip(), _seconds(row["start_time"])
        if not youtube_id:
            continue
        clip = clips.setdefault((youtube_id, start_s), _Clip(youtube_id, start_s))
        if audiocap_id := row["audiocap_id"].strip():
            clip.audiocap_ids.append(audiocap_id)
        if caption := clean(row["caption"]):
            clip.captions.append(caption)
    return list(clips.values())


def _read_wavcaps(table: Path) -> list[_Clip]:
    """Clips of a table with one row a clip, its captions side by side."""
    clips: dict[str, _Clip] = {}
    for row in read_csv(table, ("file_name",)):
        match = WAVCAPS_NAME.fullmatch(audio_stem(row["file_name"]))
        youtube_id = match["id"] if match else audio_stem(row["file_name"])
        clip = clips.setdefault(youtube_id, _Clip(youtube_id, file_name=row["file_name"]))
        told = (clean(text) for column, text in row.items() if column and column.startswith("caption"))
        clip.captions += [text for text in told if text]
    return list(clips.values())


def _is_of_wavcaps(table: Path) -> bool:
    """Whether a table has WavCaps' columns and names `Y<YouTube id>.wav`; Clotho's has these columns too."""
    header = csv_header(table)
    if "file_name" not in header or not any(name.startswith("caption") for name in header):
        return False
    try:
        first = next(read_csv(table, ("file_name",)), {"file_name": ""})
    except CorpusError:  # not text: a table of something else, passed over
        return False
    return WAVCAPS_NAME.fullmatch(audio_stem(first["file_name"])) is not None


def _count_starts(clips: list[_Clip]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for clip in clips:
        counts[clip.youtube_id] = counts.get(clip.youtube_id, 0) + 1
    return counts


def _seconds(text: str) -> int | None:
    """ "30" and "30.0" -> 30; None when there is no number."""
    whole, _, rest = text.strip().partition(".")
    return int(whole) if whole.isdecimal() and not rest.strip("0") else None

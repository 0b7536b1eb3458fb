"""AudioCaps v1: captions of ten-second AudioSet clips (github.com/cdjkim/audiocaps).

Layout: `dataset/{train,val,test}.csv` (CRLF, header `audiocap_id,youtube_id,start_time,caption`), one caption a clip in
train and five in val and test, and audio named by whichever downloader was used, see `_names`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.adapters.audio_index import StemIndex
from data_prep.adapters.base import SourceClip
from data_prep.adapters.common import CorpusAdapter, clean, csv_header, read_csv, require_file, source_clip
from data_prep.adapters.questions import ask_captions
from pipeline.types import SPLITS

COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
CLIP_S = 10


class AudioCaps(CorpusAdapter):
    name = "audiocaps"
    domain = "sound"
    licence = "MIT (captions), academic use only by its README; audio belongs to the YouTube uploaders"
    layouts = ("train.csv", "dataset/train.csv", "csv_files_v1/train.csv")

    def accepts(self, path: Path) -> bool:
        # Many corpora have a train.csv. One of the two telling columns is enough, so that `clips` can name a lost one.
        return not {"audiocap_id", "youtube_id"}.isdisjoint(csv_header(path))

    def clips(self, root: Path) -> Iterator[SourceClip]:
        """One clip for each YouTube id, with one caption in train and all references elsewhere; see `Adapter.clips`."""
        tables = self.annotation(root).parent
        files = {split: require_file(tables / f"{split}.csv", self.name, root, f"{split}.csv") for split in SPLITS}
        audio = StemIndex.below(root)
        for split, file in files.items():
            rows_of: dict[str, list[dict[str, str]]] = {}
            for row in read_csv(file, COLUMNS):
                rows_of.setdefault(row["youtube_id"], []).append(row)
            for youtube_id, rows in rows_of.items():
                names = _names(youtube_id, rows)
                captions = [text for row in rows if (text := clean(row["caption"]))]
                yield source_clip(
                    youtube_id,
                    split,
                    ask_captions(youtube_id, split, captions),
                    audio.find(*names),
                    looked_for=" or ".join(names[:3]),
                    source_keys={"youtube": youtube_id},
                    meta={"start_time_s": rows[0]["start_time"]},
                )


def _names(youtube_id: str, rows: list[dict[str, str]]) -> list[str]:
    """Stems that common downloaders give to a clip, the most telling first."""
    start = rows[0]["start_time"]
    names = [f"{youtube_id}_{start}", youtube_id, f"Y{youtube_id}", *(row["audiocap_id"] for row in rows)]
    if start.isdigit():
        names += [f"{youtube_id}-[{start}-{int(start) + CLIP_S}]", f"{youtube_id}_{int(start) * 1000}"]
    return names

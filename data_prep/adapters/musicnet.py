"""MusicNet: 330 classical recordings with the times of every note (Zenodo 5120004).

Layout: `musicnet_metadata.csv` beside `musicnet/{train,test}_{data,labels}/<id>.{wav,csv}`, with one or two levels of
`musicnet/` between. Label times are sample indices at 44.1 kHz; instruments are General MIDI programs counted from 1.

Pieces last minutes, so fixed windows are cut. Instruments are asked from the notes inside the window; composer and
ensemble belong to the piece. At most `max_windows` a piece, spread evenly, so that long pieces do not outweigh others.
Split by folder: train and test; there is no val.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.adapters.audio_index import StemIndex, is_litter
from data_prep.adapters.base import SourceClip
from data_prep.adapters.common import CorpusAdapter, folders_named, read_csv, source_clip
from data_prep.adapters.questions import ask, ask_presence, join_words, present
from pipeline.errors import CorpusError
from pipeline.types import Qa

LABEL_RATE_HZ = 44_100
INSTRUMENTS = {
    1: "piano",
    7: "harpsichord",
    41: "violin",
    42: "viola",
    43: "cello",
    44: "double bass",
    61: "horn",
    69: "oboe",
    71: "bassoon",
    72: "clarinet",
    74: "flute",
}


class MusicNet(CorpusAdapter):
    name = "musicnet"
    domain = "music"
    licence = "CC BY 4.0; recordings in the public domain or freely licensed"
    layouts = ("musicnet_metadata.csv",)
    window_s = 10.0
    max_windows = 12

    def clips(self, root: Path) -> Iterator[SourceClip]:
        pieces = {row["id"]: row for row in read_csv(self.annotation(root), ("id", "composer", "ensemble"))}
        for split in ("train", "test"):
            labels, audio = _folder(root, f"{split}_labels"), StemIndex.below(_folder(root, f"{split}_data"))
            files = [path for path in labels.glob("*.csv") if not is_litter(path.name)]
            for file in sorted(files, key=lambda path: (len(path.stem), path.stem)):
                yield from self._piece(file, split, audio.find(file.stem), pieces.get(file.stem, {}))

    def _piece(self, labels: Path, split: str, audio: Path | None, about: dict[str, str]) -> Iterator[SourceClip]:
        instruments_of = _instruments_by_window(labels, self.window_s)
        chosen = _spread(sorted(instruments_of), self.max_windows)
        if audio is None or not chosen:
            # One record for the piece: its windows are ours, the corpus lacks only one file.
            chosen = chosen[:1] or [0]
        for window in chosen:
            start_s = window * self.window_s
            clip_id = f"{labels.stem}@{start_s:g}s"
            instruments = instruments_of.get(window, [])
            yield source_clip(
                clip_id,
                split,
                _questions(clip_id, instruments, about),
                audio,
                looked_for=f"{labels.stem}.wav",
                problem="" if instruments else f"{labels.name} has no note of a known instrument in a whole window",
                start_s=start_s,
                end_s=start_s + self.window_s,
                source_keys={"track": f"musicnet-{labels.stem}"},
                meta={name: about[name] for name in ("composition", "movement") if about.get(name)},
            )


def _questions(clip_id: str, instruments: list[str], about: dict[str, str]) -> list[Qa]:
    if not instruments:
        return []
    return present(
        ask(clip_id, "instrument", join_words(instruments)),
        ask(clip_id, "instrument_count", str(len(instruments))),
        ask_presence(clip_id, instruments, list(INSTRUMENTS.values())),
        ask(clip_id, "ensemble", about.get("ensemble", "")),
        ask(clip_id, "composer", about.get("composer", "")),
    )


def _folder(root: Path, name: str) -> Path:
    found = folders_named(root, name)
    if not found:
        raise CorpusError(
            "a folder of the corpus is absent",
            where={"corpus": MusicNet.name, "looked for": f"{name}/", "below": root},
            hint="unpack musicnet.tar.gz beside musicnet_metadata.csv",
        )
    return found[0]


def _instruments_by_window(labels: Path, window_s: float) -> dict[int, list[str]]:
    """Window number -> instruments with a note in it, in score order; only windows that the notes fill to the end."""
    window = round(window_s * LABEL_RATE_HZ)
    programs_of: dict[int, set[int]] = {}
    last_sample = 0
    for row in read_csv(labels, ("start_time", "end_time", "instrument")):
        try:
            start, end, program = int(row["start_time"]), int(row["end_time"]), int(row["instrument"])
        except ValueError:
            continue
        last_sample = max(last_sample, end)
        if program in INSTRUMENTS:
            for number in range(start // window, -(-end // window)):
                programs_of.setdefault(number, set()).add(program)
    # A piece shorter than one window still gives that window; the decoder cuts at the end of the file.
    n_windows = max(1, last_sample // window)
    return {
        number: [INSTRUMENTS[program] for program in sorted(programs)]
        for number, programs in programs_of.items()
        if number < n_windows
    }


def _spread(windows: list[int], limit: int) -> list[int]:
    """At most `limit` of `windows`, evenly over them, the first included."""
    if len(windows) <= limit:
        return windows
    return [windows[index * len(windows) // limit] for index in range(limit)]

"""MusicNet: 330 classical recordings with the times of every note (Zenodo 5120004).

Layout: `musicnet_metadata.csv` beside `musicnet/{train,test}_{data,labels}/<id>.{wav,csv}`, with one or two levels of
`musicnet/` between (two in the Kaggle copy). Label times are sample indices at 44.1 kHz; instruments are General MIDI
programs counted from 1.

Pieces last minutes, so fixed windows are cut. Instruments are asked from the notes inside the window; composer and
ensemble belong to the piece. At most `max_windows` a piece, spread evenly, so that long pieces do not outweigh others.
Split by folder: train and test; there is no val.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from data_prep.adapters.audio_index import StemIndex, audio_below, audio_stem, is_litter
from data_prep.adapters.base import AdapterOptions, Findings, SourceClip
from data_prep.adapters.common import (
    CorpusAdapter,
    folders,
    folders_named,
    note_count,
    read_csv,
    require_file,
    source_clip,
)
from data_prep.adapters.questions import ask, ask_presence, join_words, present
from pipeline.errors import CorpusError
from pipeline.types import Qa

METADATA = "musicnet_metadata.csv"
N_PIECES = {"train": 320, "test": 10}
TEST_PIECES = ("1759", "1819", "2106", "2191", "2298", "2303", "2382", "2416", "2556", "2628")
LABEL_RATE_HZ = 44_100
# Label times are off by tens of milliseconds: the tail of a note is no proof that the instrument is heard in a window.
MIN_SOUNDING_S = 0.1
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


class MusicNetOptions(AdapterOptions):
    """`window_s`: length of the windows; `max_windows`: at most so many a piece, spread evenly over it."""

    window_s: float = Field(default=10.0, ge=1.0)
    max_windows: int = Field(default=12, ge=1)


class MusicNet(CorpusAdapter):
    name = "musicnet"
    domain = "music"
    licence = "CC BY 4.0; recordings in the public domain or freely licensed"
    version = 2
    layouts = (METADATA,)
    options_type = MusicNetOptions
    options: MusicNetOptions

    def find(self, root: Path) -> Path | None:
        """The folder of the metadata; without it, that of the labels, so that `clips` can name the lost file."""
        return super().find(root) or next(
            (folder for folder in folders(root) if (folder / "train_labels").is_dir()), None
        )

    def clips(self, root: Path, found: Findings) -> Iterator[SourceClip]:
        """The windows of every piece; one clip for a piece without audio or without labels; see `Adapter.clips`."""
        metadata = require_file(self.signature(root), self.name, root, METADATA)
        pieces = {row["id"].strip(): row for row in read_csv(metadata, ("id", "composer", "ensemble"))}
        for split in ("train", "test"):
            folder = _folder(root, f"{split}_labels")
            found.fact(f"{split} labels", folder.relative_to(root).as_posix())
            labels = {path.stem: path for path in folder.glob("*.csv") if not is_litter(path.name)}
            files = audio_below(_folder(root, f"{split}_data"))
            audio = StemIndex(files)
            names = sorted({*labels, *map(audio_stem, files)}, key=lambda name: (len(name), name))
            for name in names:
                if name not in pieces:
                    found.count("piece", "without metadata: composer and ensemble are not asked")
                yield from self._piece(name, split, labels.get(name), audio.find(name), pieces.get(name, {}), found)
            note_count(found, f"{split} pieces", N_PIECES[split], len(names))
            _check_folder(names, split, found)
        if "instrument code" in found.counts:
            found.note("windows in which an instrument of an unknown code plays are left out")

    def _piece(
        self, name: str, split: str, labels: Path | None, audio: Path | None, about: dict[str, str], found: Findings
    ) -> Iterator[SourceClip]:
        notes = _Notes(self.options.window_s)
        if labels is not None:
            notes.read(labels, found)
        problem = notes.problem(labels)
        chosen = _spread(notes.windows(), self.options.max_windows)
        if audio is None or not chosen:
            # One record for the piece: its windows are ours, the corpus lacks only one file.
            chosen = chosen[:1] or [0]
        for window in chosen:
            start_s = window * self.options.window_s
            clip_id = f"{name}@{start_s:g}s"
            yield source_clip(
                clip_id,
                split,
                [] if problem else _questions(clip_id, notes.instruments(window), about),
                audio,
                looked_for=f"{name}.wav",
                problem=problem,
                start_s=start_s,
                end_s=start_s + self.options.window_s,
                source_keys={"track": f"musicnet-{name}"},
                meta={key: about[key] for key in ("composition", "movement") if about.get(key)},
            )


def _questions(clip_id: str, instruments: list[str], about: dict[str, str]) -> list[Qa]:
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
            expected="train_data train_labels test_data test_labels, at most three folders deep",
            hint=f"unpack musicnet.tar.gz beside {METADATA}",
        )
    return found[0]


def _check_folder(names: list[str], split: str, found: Findings) -> None:
    strangers = [name for name in names if (name in TEST_PIECES) != (split == "test")]
    if strangers:
        found.note(f"the folder {split}_data differs from the published split in {' '.join(strangers)}")


@dataclass
class _Notes:
    """Which instruments sound in which window of one piece."""

    window_s: float
    _programs_of: dict[int, set[int]] = field(default_factory=dict)
    _last_sample: int = 0

    def read(self, labels: Path, found: Findings) -> None:
        """Add the notes of one file. A note counts for a window that has 0.1 s of it, or all of a shorter one."""
        window = round(self.window_s * LABEL_RATE_HZ)
        least = round(MIN_SOUNDING_S * LABEL_RATE_HZ)
        for row in read_csv(labels, ("start_time", "end_time", "instrument")):
            try:
                start, end, program = int(row["start_time"]), int(row["end_time"]), int(row["instrument"])
            except ValueError:
                found.count("note", "not a number, left out")
                continue
            if program not in INSTRUMENTS:
                found.count("instrument code", f"unknown {program}")
            self._last_sample = max(self._last_sample, end)
            for number in range(start // window, -(-end // window)):
                inside = min(end, (number + 1) * window) - max(start, number * window)
                if inside >= min(least, end - start):
                    self._programs_of.setdefault(number, set()).add(program)

    def windows(self) -> list[int]:
        """Windows that the notes fill to the end, without those in which an unknown instrument plays.

        A piece shorter than one window still gives that window; the decoder cuts at the end of the file.
        """
        n_windows = max(1, self._last_sample // round(self.window_s * LABEL_RATE_HZ))
        return sorted(
            number
            for number, programs in self._programs_of.items()
            if number < n_windows and programs <= INSTRUMENTS.keys()
        )

    def instruments(self, window: int) -> list[str]:
        """Names in score order."""
        return [INSTRUMENTS[program] for program in sorted(self._programs_of[window])]

    def problem(self, labels: Path | None) -> str:
        """Why the piece gives no window; "" when it gives one."""
        if labels is None:
            return "the piece has no label file"
        return "" if self.windows() else f"{labels.name} has no window with notes of known instruments only"


def _spread(windows: list[int], limit: int) -> list[int]:
    """At most `limit` of `windows`, evenly over them, the first included."""
    if len(windows) <= limit:
        return windows
    return [windows[index * len(windows) // limit] for index in range(limit)]

"""Reading prepared shards back, one sample at a time: for checks, tables and previews.

Samples are found by the offsets of the side files, so that no tar is walked and no audio read that nobody asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.data.manifest import (
    QUARANTINE_NAME,
    DatasetManifest,
    SampleEntry,
    ShardSide,
    find_manifests,
    read_model,
)
from pipeline.errors import ShardError, nearest
from pipeline.types import Clip


def choose_datasets(shards: Path, names: Sequence[str] = ()) -> dict[str, DatasetManifest]:
    """The manifests of the complete datasets below `shards`, or of those in `names`; in name order.

    Raises:
        ShardError: no dataset at all, a damaged manifest, or a name that is not there.
    """
    found = find_manifests(shards)
    for name in names:
        if name not in found:
            close = nearest(name, found)
            raise ShardError(
                "unknown dataset",
                where={"dataset": name, "folder": shards},
                expected=", ".join(found),
                hint=f"did you mean {close}?" if close else "run `gst-data prepare` for it first",
            )
    return {name: manifest for name, manifest in found.items() if not names or name in names}


def side_path(tar: Path) -> Path:
    return tar.with_suffix(".json")


def read_side(tar: Path) -> ShardSide:
    """The side file of a tar; ShardError when it is missing or damaged."""
    return read_model(side_path(tar), ShardSide)


def read_clips(tar: Path, samples: Iterable[SampleEntry]) -> Iterator[tuple[SampleEntry, Clip]]:
    """The JSON members of some samples of one tar, in the order given; ShardError when one is not there."""
    with _open(tar) as file:
        for sample in samples:
            content = read_at(file, sample.json_offset, sample.json_size)
            try:
                clip = Clip.from_json(json.loads(content))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ShardError(
                    "a sample is not where its side file says",
                    where={"file": tar, "key": sample.key},
                    hint="run `gst-data lint`",
                ) from None
            yield sample, clip


def read_audio(tar: Path, sample: SampleEntry) -> bytes:
    """The FLAC member of one sample."""
    with _open(tar) as file:
        return read_at(file, sample.audio_offset, sample.audio_size)


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`, or fewer at the end of the file."""
    file.seek(offset)
    return file.read(size)


def read_quarantine(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of a dataset's quarantine file, one at a time.

    Raises:
        ShardError: the file is missing, or a line of it is no record.
    """
    path = folder / QUARANTINE_NAME
    number = 0
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                record = json.loads(line)
                if not isinstance(record, dict) or not isinstance(record.get("state"), str):
                    raise ValueError(f"line {number}")
                yield record
    except FileNotFoundError:
        raise ShardError(
            "the quarantine file is missing",
            where={"file": path},
            hint="delete manifest.json and run `gst-data prepare` again",
        ) from None
    except ValueError:
        raise ShardError("the quarantine file is damaged", where={"file": path, "line": max(number, 1)}) from None


def _open(tar: Path) -> BinaryIO:
    try:
        return open(tar, "rb")
    except OSError as error:
        raise ShardError(
            f"a shard cannot be read: {error.strerror}", where={"file": tar}, hint="run `gst-data lint`"
        ) from None

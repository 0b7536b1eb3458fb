"""The contract between data_prep, which writes shards, and the loader, which reads them by index.

One dataset is a folder:

    <shards>/<dataset>/<dataset>-<split>-<6 digits>.tar     plain webdataset tar, one clip per sample
    <shards>/<dataset>/<dataset>-<split>-<6 digits>.json    side file: the commit mark of that tar
    <shards>/<dataset>/<dataset>-<split>.wids.json          index in the `wids` format, for other readers
    <shards>/<dataset>/quarantine.jsonl                     clips that were not written, with state and reason
    <shards>/<dataset>/manifest.json                        written last: the dataset is complete

A sample's key is `<dataset>-<split>-<6 digits shard>-<5 digits position>`; its members are `flac` and `json`
(`pipeline.types.Clip`). Nothing here imports torch or opens a tar.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.atomic import sync_folder as sync_folder
from pipeline.atomic import write_atomic as write_atomic
from pipeline.errors import ShardError
from pipeline.types import Domain

MANIFEST_VERSION = 1
MANIFEST_NAME = "manifest.json"
QUARANTINE_NAME = "quarantine.jsonl"
DATASET_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")

_Model = TypeVar("_Model", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SampleEntry(_Frozen):
    """Where one clip lies inside its tar; offsets and sizes in bytes, of the member's content."""

    key: str
    clip_id: str
    audio_offset: int
    audio_size: int
    json_offset: int
    json_size: int
    duration_s: float
    n_qa: int


class ShardSide(_Frozen):
    """Side file of one tar. Its presence, with the same `plan_hash`, means that the tar is whole."""

    version: int = MANIFEST_VERSION
    dataset: str
    split: str
    shard: str
    plan_hash: str
    n_samples: int
    n_bytes: int
    sha256: str
    samples: list[SampleEntry]
    quarantined: list[dict[str, Any]] = Field(default_factory=list)
    tools: dict[str, str] = Field(default_factory=dict)


class ShardEntry(_Frozen):
    file: str
    n_samples: int
    n_bytes: int
    sha256: str


class SplitEntry(_Frozen):
    clips: int
    questions: int
    hours: float
    shards: list[ShardEntry]


class DatasetManifest(_Frozen):
    """One prepared dataset. `digest` identifies its content: it covers every shard's hash."""

    version: int = MANIFEST_VERSION
    dataset: str
    domain: Domain
    adapter: str
    licence: str
    plan_hash: str
    digest: str
    splits: dict[str, SplitEntry]
    states: dict[str, int] = Field(default_factory=dict, description="clips per final state: ok, missing, ...")
    notes: list[str] = Field(default_factory=list)


def manifest_digest(splits: dict[str, SplitEntry]) -> str:
    """sha256 over the shards of every split, in order: equal exactly when the audio and text are equal."""
    content = {name: [shard.sha256 for shard in split.shards] for name, split in sorted(splits.items())}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_model(path: Path, kind: type[_Model]) -> _Model:
    """Read and validate one JSON file; ShardError says what is wrong with it and what to run."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise missing_file(path) from None
    return parse_model(content, kind, path)


def missing_file(place: Path | str) -> ShardError:
    """What to raise where a side file or manifest is not there."""
    return ShardError(
        "a prepared file is missing",
        where={"file": place},
        hint="run `gst-data prepare` again; it writes what lacks",
    )


def parse_model(content: bytes, kind: type[_Model], place: Path | str) -> _Model:
    """Validate a JSON file's content; `place` is named in the ShardError of a damaged one."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise ShardError(
            f"a prepared file is damaged or of another version: {first['msg']}",
            where={"file": place, "key": key},
            hint="delete it and run `gst-data prepare` again",
        ) from None


def write_model(path: Path, value: BaseModel) -> None:
    """Write a manifest or side file atomically, with stable key order."""
    write_atomic(path, (value.model_dump_json(indent=1) + "\n").encode())


def find_manifests(shards: Path) -> dict[str, DatasetManifest]:
    """All complete datasets below `shards`, by name, in name order.

    Raises:
        ShardError: the folder is missing, holds no complete dataset, or a manifest does not fit its folder.
    """
    if not shards.is_dir():
        raise ShardError("no such shard folder", where={"folder": shards}, hint="run `gst-data prepare` first")
    found = {path.parent.name: read_model(path, DatasetManifest) for path in sorted(shards.glob(f"*/{MANIFEST_NAME}"))}
    return checked_manifests(found, shards)


def checked_manifests(found: dict[str, DatasetManifest], shards: Path | str) -> dict[str, DatasetManifest]:
    """`found`, by folder below `shards`; ShardError when there is none, or one does not fit its folder."""
    for folder, manifest in found.items():
        if manifest.dataset != folder:
            raise ShardError(
                "a manifest lies in another dataset's folder",
                where={"file": f"{shards}/{folder}/{MANIFEST_NAME}"},
                got=manifest.dataset,
                expected=folder,
            )
    if not found:
        raise ShardError(
            "no prepared dataset here",
            where={"folder": shards},
            expected=f"<dataset>/{MANIFEST_NAME}",
            hint="run `gst-data prepare` first",
        )
    return found

"""Check prepared shards against their manifests, and every sample against the contract."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from data_prep.audio import decode_flac
from data_prep.write import sha256_of
from pipeline.data.manifest import (
    MANIFEST_NAME,
    DatasetManifest,
    SampleEntry,
    ShardEntry,
    ShardSide,
    manifest_digest,
    read_model,
)
from pipeline.errors import AudioError, ShardError
from pipeline.types import DOMAINS, Clip

_CLIP = TypeAdapter(Clip)


def lint(shards: Path, *, decode: bool = False) -> list[str]:
    """Everything that is wrong below `shards`, one line each; an empty list when all is well.

    Args:
        decode: decode every FLAC too and compare its length.

    Raises:
        ShardError: the folder is missing or holds no dataset.
    """
    if not shards.is_dir():
        raise ShardError("no such shard folder", where={"folder": shards}, hint="run `gst-data prepare` first")
    folders = sorted(path for path in shards.iterdir() if path.is_dir() and not path.name.startswith("."))
    datasets = [path for path in folders if (path / MANIFEST_NAME).exists() or any(path.glob("*.tar"))]
    if not datasets:
        raise ShardError("no prepared dataset here", where={"folder": shards}, expected=f"<dataset>/{MANIFEST_NAME}")
    return [problem for folder in datasets for problem in _lint_dataset(folder, decode)]


def _lint_dataset(folder: Path, decode: bool) -> Iterator[str]:
    try:
        manifest = read_model(folder / MANIFEST_NAME, DatasetManifest)
    except ShardError as error:
        yield f"{folder.name}: not complete: {error.what}"
        return
    if manifest.dataset != folder.name:
        yield f"{folder.name}: the manifest is of dataset {manifest.dataset!r}"
    if manifest.digest != manifest_digest(manifest.splits):
        yield f"{folder.name}: the manifest's digest does not fit its shards"
    known = {shard.file for entry in manifest.splits.values() for shard in entry.shards}
    for path in sorted(folder.glob("*.tar")):
        if path.name not in known and _has_samples(path.with_suffix(".json")):
            yield f"{folder.name}/{path.name}: not in the manifest"
    keys: Counter[str] = Counter()
    clip_ids: Counter[str] = Counter()
    for split, entry in manifest.splits.items():
        if not (folder / f"{manifest.dataset}-{split}.wids.json").is_file():
            yield f"{folder.name}: no wids index of split {split}"
        if sum(shard.n_samples for shard in entry.shards) != entry.clips:
            yield f"{folder.name}: split {split} does not have the {entry.clips} clips of the manifest"
        for shard in entry.shards:
            path = folder / shard.file
            try:
                side = _check_files(path, shard, manifest.plan_hash)
                keys.update(sample.key for sample in side.samples)
                clip_ids.update(sample.clip_id for sample in side.samples)
                for problem in _lint_tar(path, side, decode):
                    yield f"{folder.name}/{path.name}: {problem}"
            except ShardError as error:
                yield f"{folder.name}/{path.name}: {error.what}"
    yield from (f"{folder.name}: key {key} occurs {n} times" for key, n in keys.items() if n > 1)
    yield from (f"{folder.name}: clip {clip_id} occurs {n} times" for clip_id, n in clip_ids.items() if n > 1)


def _has_samples(side_path: Path) -> bool:
    """False for the one tar that may lie beside a manifest unlisted: no clip of it could be used."""
    try:
        return read_model(side_path, ShardSide).n_samples > 0
    except ShardError:
        return True


def _check_files(path: Path, shard: ShardEntry, plan_hash: str) -> ShardSide:
    """Size, hash and side file of one tar; raises ShardError with the first thing that does not fit."""
    if not path.is_file():
        raise ShardError("the tar is missing")
    side = read_model(path.with_suffix(".json"), ShardSide)
    size = path.stat().st_size
    if size != shard.n_bytes:
        raise ShardError(f"{size} bytes, the manifest says {shard.n_bytes}")
    if sha256_of(path) != shard.sha256:
        raise ShardError("the content has another sha256 than the manifest says")
    if (side.sha256, side.n_bytes, side.n_samples) != (shard.sha256, shard.n_bytes, shard.n_samples):
        raise ShardError("the side file and the manifest differ")
    if side.plan_hash != plan_hash:
        raise ShardError("the side file belongs to another plan")
    return side


def _lint_tar(path: Path, side: ShardSide, decode: bool) -> Iterator[str]:
    """Members adjacent, in order and where the side file says; JSON as `Clip`; audio decodes when asked for."""
    with tarfile.open(path, "r:") as tar:
        members = list(tar)
    names = [member.name for member in members]
    if names != [f"{sample.key}.{kind}" for sample in side.samples for kind in ("flac", "json")]:
        yield "the members are not flac, json of each sample of the side file, in order"
        return
    with open(path, "rb") as file:
        for sample, audio, text in zip(side.samples, members[::2], members[1::2], strict=True):
            places = (audio.offset_data, audio.size, text.offset_data, text.size)
            if places != (sample.audio_offset, sample.audio_size, sample.json_offset, sample.json_size):
                yield f"{sample.key}: offsets or sizes differ from the side file"
                continue
            file.seek(sample.json_offset)
            yield from (f"{sample.key}: {problem}" for problem in _lint_clip(file.read(sample.json_size), sample, side))
            if decode:
                file.seek(sample.audio_offset)
                yield from (f"{sample.key}: {problem}" for problem in _lint_audio(file.read(sample.audio_size), sample))


def _lint_clip(content: bytes, sample: SampleEntry, side: ShardSide) -> Iterator[str]:
    try:
        clip = _CLIP.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        yield f"json: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        return
    if clip.to_json() != json.loads(content):
        yield "json: keys or shapes that are not those of a clip"
    if (clip.dataset, clip.split, clip.id) != (side.dataset, side.split, sample.clip_id):
        yield f"json: dataset, split or id is {clip.dataset} {clip.split} {clip.id}"
    if clip.domain not in DOMAINS:
        yield f"json: unknown domain {clip.domain!r}"
    if clip.duration_s != sample.duration_s:
        yield f"json: {clip.duration_s} s, the side file says {sample.duration_s} s"
    if len(clip.qa) != sample.n_qa or not clip.qa:
        yield f"json: {len(clip.qa)} questions, the side file says {sample.n_qa}"
    if len({qa.id for qa in clip.qa}) < len(clip.qa):
        yield "json: two questions have the same id"
    if any(not qa.question or not qa.answer or qa.answers[:1] != (qa.answer,) for qa in clip.qa):
        yield "json: a question or answer is empty, or the answer is not the first of the answers"


def _lint_audio(content: bytes, sample: SampleEntry) -> Iterator[str]:
    try:
        audio, rate_hz = decode_flac(content)
    except AudioError as error:
        yield error.what
        return
    if len(audio) / rate_hz != sample.duration_s:
        yield f"audio of {len(audio) / rate_hz} s, the side file says {sample.duration_s} s"

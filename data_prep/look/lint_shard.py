"""All that can be checked of one shard on its own: the tar against its side file and its manifest entry."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from data_prep.audio.load import decode_flac
from data_prep.look.leaks import Recordings, ShardPlace
from data_prep.look.reader import read_at, read_side, side_path
from data_prep.planning.leakage_keys import recording_keys
from data_prep.shards.write import sha256_of
from pipeline.data.manifest import SampleEntry, ShardEntry, ShardSide
from pipeline.errors import AudioError, ShardError
from pipeline.types import DOMAINS, Clip

_CLIP = TypeAdapter(Clip)
_KINDS = ("flac", "json")


@dataclass(frozen=True)
class SampleFacts:
    """What the comparison between shards needs of one sample."""

    key: str
    clip_id: str
    audio_sha256: bytes
    recordings: Recordings


@dataclass(frozen=True)
class ShardFindings:
    """Problems of one shard. `samples` is empty, and the totals are None, when its files cannot be trusted at all."""

    problems: list[str]
    samples: list[SampleFacts]
    questions: int | None = None
    seconds: float | None = None


def check_shard(place: ShardPlace, plan_hash: str, decode: bool) -> ShardFindings:
    """Check one shard; with `decode` every clip's audio too."""
    problems: list[str] = []
    try:
        side = _check_files(place.tar, place.entry, plan_hash)
        if (side.dataset, side.split) != (place.dataset, place.split):
            raise ShardError(f"the side file is of {side.dataset} {side.split}")
        problems += _key_problems(place.tar.stem, side)
        problems += _member_problems(place.tar, side)
    except ShardError as error:
        return ShardFindings([*problems, error.what], [])
    samples = []
    with open(place.tar, "rb") as file:
        for sample in side.samples:
            flac = read_at(file, sample.audio_offset, sample.audio_size)
            text = read_at(file, sample.json_offset, sample.json_size)
            clip, found = _read_clip(text, sample, side)
            if decode:
                found += _audio_problems(flac, sample, clip)
            problems += [f"{sample.key}: {problem}" for problem in found]
            recordings = tuple(recording_keys(clip.source_keys)) if clip is not None else ()
            samples.append(SampleFacts(sample.key, sample.clip_id, hashlib.sha256(flac).digest(), recordings))
    return ShardFindings(
        problems,
        samples,
        questions=sum(sample.n_qa for sample in side.samples),
        seconds=sum(sample.duration_s for sample in side.samples),
    )


def _check_files(tar: Path, entry: ShardEntry, plan_hash: str) -> ShardSide:
    """Size, hash and side file of one tar; raises ShardError with the first thing that does not fit."""
    if not tar.is_file():
        raise ShardError("the tar is missing")
    if not side_path(tar).is_file():
        raise ShardError("the side file is missing")
    side = read_side(tar)
    size = tar.stat().st_size
    if size != entry.n_bytes:
        n_whole = sum(sample.json_offset + sample.json_size <= size for sample in side.samples)
        cut = f": cut after {n_whole} of {len(side.samples)} samples" if size < entry.n_bytes else ""
        raise ShardError(f"{size} bytes, the manifest says {entry.n_bytes}{cut}")
    if sha256_of(tar) != entry.sha256:
        raise ShardError("the content has another sha256 than the manifest says")
    if (side.sha256, side.n_bytes, side.n_samples) != (entry.sha256, entry.n_bytes, entry.n_samples):
        raise ShardError("the side file and the manifest differ")
    if len(side.samples) != side.n_samples:
        raise ShardError(f"the side file counts {side.n_samples} samples and lists {len(side.samples)}")
    if side.plan_hash != plan_hash:
        raise ShardError("the side file belongs to another plan")
    return side


def _key_problems(stem: str, side: ShardSide) -> Iterator[str]:
    pattern = re.compile(rf"{re.escape(stem)}-\d{{5}}")
    for sample in side.samples:
        if "." in sample.key:
            yield f"key {sample.key!r} has a dot: webdataset ends a key at its first dot"
        elif not pattern.fullmatch(sample.key):
            yield f"key {sample.key!r} is not of the form {stem}-00000"


def _member_problems(tar_path: Path, side: ShardSide) -> Iterator[str]:
    """Are the members flac, json of each sample, adjacent, in order, and where the side file says?

    Raises:
        ShardError: they are not, so that no sample can be read by its place.
    """
    try:
        with tarfile.open(tar_path, "r:") as tar:
            members = list(tar)
    except tarfile.TarError as error:
        raise ShardError(f"not a readable tar: {error}") from None
    _check_order([member.name for member in members], [f"{s.key}.{kind}" for s in side.samples for kind in _KINDS])
    for sample, audio, text in zip(side.samples, members[::2], members[1::2], strict=True):
        places = (audio.offset_data, audio.size, text.offset_data, text.size)
        if places != (sample.audio_offset, sample.audio_size, sample.json_offset, sample.json_size):
            raise ShardError(f"{sample.key}: offsets or sizes differ from the side file")
    if members and tar_path.stat().st_size < members[-1].offset_data + members[-1].size + 2 * tarfile.BLOCKSIZE:
        yield "the tar has no end-of-archive mark: it may be cut"


def _check_order(names: list[str], expected: list[str]) -> None:
    """Raise ShardError that names what is wrong with the order of a tar's members."""
    if names == expected:
        return
    groups = Counter(key for key, _ in groupby(name.partition(".")[0] for name in names))
    torn = [key for key, count in groups.items() if count > 1]
    lacking = sorted(set(expected) - set(names))
    extra = sorted(set(names) - set(expected))
    if torn:
        raise ShardError(f"the members of {len(torn)} samples are not adjacent, the first is {torn[0]}")
    if lacking:
        raise ShardError(f"{len(lacking)} members of the side file are not in the tar, the first is {lacking[0]}")
    if extra:
        raise ShardError(f"{len(extra)} members of the tar are not in the side file, the first is {extra[0]}")
    raise ShardError("the members are not flac, json of each sample of the side file, in order")


def _read_clip(content: bytes, sample: SampleEntry, side: ShardSide) -> tuple[Clip | None, list[str]]:
    """The clip of a JSON member, None when it is none, and what is wrong with it."""
    try:
        clip = _CLIP.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        return None, [f"json: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}"]
    return clip, list(_clip_problems(clip, content, sample, side))


def _clip_problems(clip: Clip, content: bytes, sample: SampleEntry, side: ShardSide) -> Iterator[str]:
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


def _audio_problems(content: bytes, sample: SampleEntry, clip: Clip | None) -> list[str]:
    try:
        audio, rate_hz = decode_flac(content)
    except AudioError as error:
        return [error.what]
    problems = []
    if len(audio) / rate_hz != sample.duration_s:
        problems.append(f"audio of {len(audio) / rate_hz} s, the side file says {sample.duration_s} s")
    if clip is not None and rate_hz != clip.sample_rate_hz:
        problems.append(f"audio of {rate_hz} Hz, the json says {clip.sample_rate_hz} Hz")
    return problems

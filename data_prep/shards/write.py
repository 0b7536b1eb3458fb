"""One planned shard to one tar and its side file; whole or not there, the same bytes in any process, at any time.

webdataset's `ShardWriter` writes under the final name and leaves half a shard behind when it dies, so only its
`TarWriter` is used, into a temporary file. The side file is written last: it is the commit mark of the tar.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile

from data_prep.adapters.base import SourceClip
from data_prep.audio.load import encode_flac, load_windows
from data_prep.output import writing
from data_prep.planning.task import ShardDone, ShardTask, quarantine_record
from pipeline.atomic import is_stale_temporary, take_name, temporary_path
from pipeline.data.manifest import SampleEntry, ShardSide, read_model, write_model
from pipeline.errors import AudioError, ShardError
from pipeline.types import Clip

_SAME_LENGTH_S = 0.01  # resampling rounds


def finished_side(task: ShardTask, *, verify: bool = False) -> ShardSide | None:
    """The side file of a shard that is already the planned one, None when the shard has to be written.

    `verify` reads the tar too and compares its hash; else its size has to do.
    """
    try:
        side = read_model(task.side, ShardSide)
        is_whole = side.plan_hash == task.plan_hash and task.tar.stat().st_size == side.n_bytes
        if is_whole and verify:
            is_whole = sha256_of(task.tar) == side.sha256
    except (ShardError, OSError):
        return None
    return side if is_whole else None


def done_of(task: ShardTask, side: ShardSide) -> ShardDone:
    """The counts of a finished shard; a clip that became several windows counts once."""
    states = Counter({"ok": task.n_clips - len(side.quarantined)})
    states.update(record["state"] for record in side.quarantined)
    return ShardDone(task.name, dict(states), side.n_samples, side.n_bytes)


def write_shard(task: ShardTask) -> ShardDone:
    """Write one shard, unless it is there already; clips that cannot be used are recorded in the side file.

    Raises:
        ShardError: the output folder cannot be written: disk full, no permission.
    """
    done = finished_side(task)
    if done is not None:
        return done_of(task, done)
    temporary = temporary_path(task.tar)
    with writing("a shard", task.tar):
        try:
            task.folder.mkdir(parents=True, exist_ok=True)
            clips, quarantined = _write_tar(task, temporary)
            side = _describe(task, temporary, clips, quarantined)
            _remove_unless(task.side, side)
            take_name(temporary, task.tar)
            write_model(task.side, side)
        finally:
            with suppress(OSError):
                temporary.unlink()
    return done_of(task, side)


def _remove_unless(path: Path, side: ShardSide) -> None:
    """Delete a side file that says something else than `side`: it must never vouch for the new tar.

    One that says the same is of another process that writes the same shard, and is left alone.
    """
    if not path.exists():
        return
    with suppress(ShardError):
        if read_model(path, ShardSide) == side:
            return
    path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def remove_leftovers(folder: Path, dataset: str, planned: Iterable[ShardTask]) -> None:
    """Delete temporary files of processes that are gone, and shards of this dataset that are not in the plan."""
    keep = {path.name for task in planned for path in (task.tar, task.side)}
    shard = re.compile(rf"{dataset}-[a-z]+-\d{{6}}\.(tar|json)")
    for path in [*folder.iterdir(), *folder.glob("plan/.*")]:
        is_stray = shard.fullmatch(path.name) is not None and path.name not in keep
        if is_stray or is_stale_temporary(path):
            path.unlink(missing_ok=True)


def _write_tar(task: ShardTask, temporary: Path) -> tuple[dict[str, Clip], list[dict[str, Any]]]:
    """Decode and store every clip that can be used; returns the stored ones by key, and records of the others."""
    # Imported here since webdataset imports torch: a restart that finds every shard done need not wait for that.
    from webdataset.writer import TarWriter

    clips: dict[str, Clip] = {}
    quarantined: list[dict[str, Any]] = []
    with open(temporary, "wb") as file:
        with TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False) as tar:
            for position, source in enumerate(task.clips()):
                try:
                    windows = list(_load(task, source))
                except AudioError as error:
                    reason = ", ".join(_parts(error))
                    quarantined.append(
                        quarantine_record(source, task.root, state=error.state, reason=reason, stage="audio")
                    )
                    continue
                for number, (flac, clip) in enumerate(windows):
                    key = task.key(position, number)
                    text = json.dumps(clip.to_json(), ensure_ascii=False, sort_keys=True)
                    tar.write({"__key__": key, "flac": flac, "json": text.encode()})
                    clips[key] = clip
        file.flush()
        os.fsync(file.fileno())
    return clips, quarantined


def _load(task: ShardTask, source: SourceClip) -> Iterator[tuple[bytes, Clip]]:
    """The windows of one clip. Of several, each is a clip of its own, named by its start."""
    assert source.audio is not None
    loaded = load_windows(source.audio, task.audio, start_s=source.start_s, end_s=source.end_s)
    rate_hz = task.audio.sample_rate_hz
    for window in loaded.windows:
        suffix = f"@{window.start_s:g}s" if len(loaded.windows) > 1 else ""
        duration_s = len(window.audio) / rate_hz
        is_cut = window.start_s > 0 or (loaded.duration_s or duration_s) - duration_s > _SAME_LENGTH_S
        cut = {"cut": {"start_s": window.start_s, "of_s": loaded.duration_s}} if is_cut else {}
        clip = Clip(
            id=source.id + suffix,
            dataset=task.dataset,
            split=task.split,
            domain=source.domain or task.domain,
            duration_s=duration_s,
            sample_rate_hz=rate_hz,
            qa=tuple(replace(qa, id=qa.id + suffix) for qa in source.qa),
            source_keys=source.source_keys,
            meta={**source.meta, **cut},
        )
        yield encode_flac(window.audio, rate_hz), clip


def _parts(error: AudioError) -> list[str]:
    parts = [error.what]
    if error.got is not None:
        parts.append(f"got {error.got}")
    if error.expected is not None:
        parts.append(f"expected {error.expected}")
    return parts


def _describe(task: ShardTask, tar_path: Path, clips: dict[str, Clip], quarantined: list[dict[str, Any]]) -> ShardSide:
    """The side file: what the finished tar really holds, read back from it."""
    with tarfile.open(tar_path, "r:") as tar:
        members = {member.name: member for member in tar}
    samples = [
        SampleEntry(
            key=key,
            clip_id=clip.id,
            audio_offset=members[f"{key}.flac"].offset_data,
            audio_size=members[f"{key}.flac"].size,
            json_offset=members[f"{key}.json"].offset_data,
            json_size=members[f"{key}.json"].size,
            duration_s=clip.duration_s,
            n_qa=len(clip.qa),
        )
        for key, clip in clips.items()
    ]
    return ShardSide(
        dataset=task.dataset,
        split=task.split,
        shard=task.tar.name,
        plan_hash=task.plan_hash,
        n_samples=len(samples),
        n_bytes=tar_path.stat().st_size,
        sha256=sha256_of(tar_path),
        samples=samples,
        quarantined=quarantined,
        tools={
            "libsndfile": soundfile.__libsndfile_version__,
            **{name: importlib.metadata.version(name) for name in ("soundfile", "soxr", "webdataset")},
        },
    )

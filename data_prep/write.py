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
import socket
import tarfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import soundfile

from data_prep.adapters.base import SourceClip
from data_prep.audio import encode_flac, load_clip
from data_prep.plan import ShardTask, quarantine_record
from pipeline.data.manifest import SampleEntry, ShardSide, read_model, sync_folder, write_model
from pipeline.errors import AudioError, ShardError
from pipeline.types import Clip

_TEMPORARY = re.compile(r"\..+\.(?P<pid>\d+)\.(?P<host>[^/]+)\.tmp")
_TEMPORARY_LIFE_S = 24 * 3600.0


def finished_side(task: ShardTask) -> ShardSide | None:
    """The side file of a shard that is already the planned one, None when the shard has to be written."""
    try:
        side = read_model(task.side, ShardSide)
        is_whole = side.plan_hash == task.plan_hash and task.tar.stat().st_size == side.n_bytes
    except (ShardError, OSError):
        return None
    return side if is_whole else None


def write_shard(task: ShardTask) -> ShardSide:
    """Write one shard, unless it is there already; clips that cannot be used are recorded in the side file.

    Raises:
        ShardError: the output folder cannot be written: disk full, no permission.
    """
    done = finished_side(task)
    if done is not None:
        return done
    temporary = task.tar.with_name(f".{task.tar.name}.{os.getpid()}.{socket.gethostname()}.tmp")
    try:
        task.folder.mkdir(parents=True, exist_ok=True)
        clips, quarantined = _write_tar(task, temporary)
        side = _describe(task, temporary, clips, quarantined)
        # An older side file must never vouch for the new tar, not even for the moment between the two renames.
        task.side.unlink(missing_ok=True)
        temporary.replace(task.tar)
        sync_folder(task.folder)
        write_model(task.side, side)
    except OSError as error:
        raise ShardError(
            f"a shard cannot be written: {error.strerror}",
            where={"file": task.tar},
            hint="free disk space or choose another --out, then run again; whole shards are kept",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return side


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
    for path in folder.iterdir():
        is_stray = shard.fullmatch(path.name) is not None and path.name not in keep
        if is_stray or is_stale_temporary(path):
            path.unlink(missing_ok=True)


def is_stale_temporary(path: Path) -> bool:
    """True for a temporary file whose writer is dead: gone from this host, or silent for a day on another one."""
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    pid = int(match["pid"])
    if match["host"] == socket.gethostname() and (pid == os.getpid() or not _is_alive(pid)):
        return True
    try:
        return time.time() - path.stat().st_mtime > _TEMPORARY_LIFE_S
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    """Whether a process runs on this host. A zombie does not: nobody reaps orphans in a container without init."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state not in ("Z", "X")


def _write_tar(task: ShardTask, temporary: Path) -> tuple[dict[str, Clip], list[dict[str, Any]]]:
    """Decode and store every clip that can be used; returns the stored ones by key, and records of the others."""
    # Imported here since webdataset imports torch: a restart that finds every shard done need not wait for that.
    from webdataset.writer import TarWriter

    clips: dict[str, Clip] = {}
    quarantined: list[dict[str, Any]] = []
    with open(temporary, "wb") as file:
        with TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False) as tar:
            for position, source in enumerate(task.clips):
                try:
                    flac, clip = _load(task, source)
                except AudioError as error:
                    reason = ", ".join(_parts(error))
                    quarantined.append(
                        quarantine_record(source, task.root, state=error.state, reason=reason, stage="audio")
                    )
                    continue
                key = task.key(position)
                text = json.dumps(clip.to_json(), ensure_ascii=False, sort_keys=True)
                tar.write({"__key__": key, "flac": flac, "json": text.encode()})
                clips[key] = clip
        file.flush()
        os.fsync(file.fileno())
    return clips, quarantined


def _load(task: ShardTask, source: SourceClip) -> tuple[bytes, Clip]:
    assert source.audio is not None
    audio = load_clip(source.audio, task.audio, start_s=source.start_s, end_s=source.end_s)
    rate_hz = task.audio.sample_rate_hz
    clip = Clip(
        id=source.id,
        dataset=task.dataset,
        split=task.split,
        domain=source.domain or task.domain,
        duration_s=len(audio) / rate_hz,
        sample_rate_hz=rate_hz,
        qa=source.qa,
        source_keys=source.source_keys,
        meta=source.meta,
    )
    return encode_flac(audio, rate_hz), clip


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

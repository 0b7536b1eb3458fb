"""Random access to the examples of prepared shards: side files say where each clip lies, `pread` fetches it.

No tar is parsed and no torch imported. Decoding is one pinned path, soundfile to float32, so that every machine hears
the same samples.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.data.manifest import (
    MANIFEST_NAME,
    DatasetManifest,
    ShardEntry,
    ShardSide,
    find_manifests,
    manifest_digest,
    read_model,
)
from pipeline.data.order import permutation
from pipeline.data.table import CLIP, ClipTable
from pipeline.errors import AudioError, ShardError, nearest
from pipeline.types import SPLITS, Clip, Example, Qa

# Files stay open up to this number; clips of further shards cost an open and a close each. Well below the usual
# limit of 1,024 per process, and far more than a few hundred gigabytes of shards need.
_MAX_OPEN_SHARDS = 512
# Which training examples a limited run has depends on nothing that differs between arms and seeds.
_LIMIT_SEED = 20_260_519


class ShardIndex:
    """All examples of the chosen datasets, by (dataset, split, number).

    Args:
        shards: folder with one folder per dataset (see `pipeline.data.manifest`).
        datasets: names to use; None means all that are there.
        splits: splits to use. With `train` among them every dataset must have training examples.
        max_duration_s: audio beyond this is not decoded; `n_cropped` counts the examples it touches.
        train_per_dataset: only so many training examples of each dataset, the first of a fixed permutation: the same
            ones in every run. A dataset with fewer keeps them all; other splits are whole.

    Raises:
        ShardError: an unknown or unfinished dataset, a missing shard, one of another size than recorded, side files
            that contradict the manifest, or a dataset without training examples.
    """

    def __init__(
        self,
        shards: Path,
        datasets: Sequence[str] | None = None,
        splits: Sequence[str] = SPLITS,
        *,
        max_duration_s: float | None = None,
        train_per_dataset: int | None = None,
    ) -> None:
        self.shards = Path(shards)
        self.max_duration_s = max_duration_s
        found = find_manifests(self.shards)
        names = list(found) if datasets is None else list(dict.fromkeys(datasets))
        for name in names:
            if name not in found:
                raise self._unknown(name, found)
        self.manifests = {name: found[name] for name in names}
        self.datasets = tuple(names)
        self.splits = tuple(splits)
        self._files: list[Path] = []
        self._handles: dict[int, int] = {}
        self._lock = threading.Lock()
        self._tasks: dict[tuple[str, str], list[str | None]] = {}
        self._tables = {(name, split): self._read_table(name, split) for name in names for split in self.splits}
        self._limits: dict[str, int] = {}
        if "train" in self.splits:
            for name in names:
                self._require_training(name)
                if train_per_dataset is not None:
                    self._limit_training(name, train_per_dataset)

    @property
    def digests(self) -> dict[str, str]:
        """Dataset -> digest of its content; another one where only a part of the training examples is used."""
        return {
            name: _limited_digest(manifest.digest, self._limits[name]) if name in self._limits else manifest.digest
            for name, manifest in self.manifests.items()
        }

    def n_examples(self, dataset: str, split: str) -> int:
        return len(self._table(dataset, split))

    def n_cropped(self, dataset: str, split: str) -> int:
        """Examples whose audio is longer than `max_duration_s`."""
        if self.max_duration_s is None:
            return 0
        table = self._table(dataset, split)
        return int((table.clips["duration_s"] > self.max_duration_s)[table.clip_of].sum())

    def example_id(self, dataset: str, split: str, i: int) -> str:
        """`<clip id>#<question number>`: unique inside the dataset and split; costs no read."""
        table = self._table(dataset, split)
        clip, question = table.locate(i)
        return f"{table.clip_ids[clip]}#{question}"

    def duration_s(self, dataset: str, split: str, i: int) -> float:
        """Seconds of audio that example `i` gives, after cropping."""
        table = self._table(dataset, split)
        duration_s = float(table.clips["duration_s"][table.locate(i)[0]])
        return duration_s if self.max_duration_s is None else min(duration_s, self.max_duration_s)

    def read(self, dataset: str, split: str, i: int) -> Example:
        """Fetch and decode one example; safe to call from many threads.

        Raises:
            AudioError: this clip's audio or annotation is damaged; others may be fine.
            ShardError: the shard itself is gone or was cut since the index was built.
        """
        clip, question, row = self._read_clip(dataset, split, i)
        shard = int(row["shard"])
        flac = self._fetch(shard, int(row["audio_offset"]), int(row["audio_size"]))
        where: dict[str, object] = {"shard": self._files[shard], "clip": clip.id}
        audio, sample_rate_hz = decode(flac, self.max_duration_s, where)
        qa = clip.qa[question]
        return Example(
            id=f"{clip.id}#{question}",
            dataset=dataset,
            audio=audio,
            sample_rate_hz=sample_rate_hz,
            question=qa.question,
            answer=qa.answer,
            answers=qa.answers,
            task=qa.task,
        )

    def read_qa(self, dataset: str, split: str, i: int) -> Qa:
        """The question and answers of one example, without its audio; raises as `read` does."""
        clip, question, _ = self._read_clip(dataset, split, i)
        return clip.qa[question]

    def tasks(self, dataset: str, split: str) -> list[str | None]:
        """The task of every example; None where a clip's annotation is damaged.

        The first call for a dataset and split reads the annotations of all their clips, no audio.

        Raises:
            ShardError: as `read`.
        """
        if (dataset, split) not in self._tasks:
            table = self._table(dataset, split)
            found: list[str | None] = []
            same: dict[str, str] = {}  # one string object for all examples of a task
            for position, n_qa in enumerate(table.clips["n_qa"].tolist()):
                asked = table.question_of[slice(*np.searchsorted(table.clip_of, (position, position + 1)))].tolist()
                try:
                    clip = self._clip_at(table, position, n_qa)
                    found += [same.setdefault(clip.qa[k].task, clip.qa[k].task) for k in asked]
                except AudioError:
                    found += [None] * len(asked)
            self._tasks[dataset, split] = found
        return self._tasks[dataset, split]

    def n_clips(self, dataset: str, split: str) -> int:
        return len(self._table(dataset, split).clips)

    def clip_numbers(self, dataset: str, split: str) -> NDArray[np.int64]:
        """The clip of every example, counted from 0 in shard order."""
        return self._table(dataset, split).clip_of.astype(np.int64)

    def close(self) -> None:
        """Close the shard files; a later `read` opens them again."""
        with self._lock:
            for handle in self._handles.values():
                os.close(handle)
            self._handles.clear()

    def _read_clip(self, dataset: str, split: str, i: int) -> tuple[Clip, int, np.void]:
        """(clip, question number, table row) of example `i`."""
        table = self._table(dataset, split)
        position, question = table.locate(i)
        return self._clip_at(table, position, question + 1), question, table.clips[position]

    def _clip_at(self, table: ClipTable, position: int, n_qa: int) -> Clip:
        """Clip number `position`, which must have `n_qa` questions or more."""
        row = table.clips[position]
        clip_id, shard = table.clip_ids[position], int(row["shard"])
        where: dict[str, object] = {"shard": self._files[shard], "clip": clip_id}
        clip = _parse_clip(self._fetch(shard, int(row["json_offset"]), int(row["json_size"])), where)
        if clip.id != clip_id or len(clip.qa) < n_qa:
            raise AudioError(
                "a clip's annotation is not the one that the side file lists",
                state="bad_annotation",
                where=where,
                got=f"clip {clip.id} with {len(clip.qa)} questions",
                expected=f"clip {clip_id} with {row['n_qa']} questions",
            )
        return clip

    def _table(self, dataset: str, split: str) -> ClipTable:
        if dataset not in self.manifests:
            raise self._unknown(dataset, self.manifests)
        if split not in self.splits:
            raise ShardError("this split was not indexed", where={"split": split}, expected=", ".join(self.splits))
        return self._tables[dataset, split]

    def _unknown(self, name: str, known: dict[str, DatasetManifest]) -> ShardError:
        close = nearest(name, known)
        if (self.shards / name).is_dir() and not (self.shards / name / MANIFEST_NAME).is_file():
            hint = "its folder has no manifest: let `gst-data prepare` finish it"
        else:
            hint = f"did you mean {close}?" if close else "run `gst-data prepare` for it first"
        return ShardError("unknown dataset", where={"dataset": name}, expected=", ".join(known), hint=hint)

    def _require_training(self, dataset: str) -> None:
        if self.n_examples(dataset, "train") == 0:
            splits = self.manifests[dataset].splits
            raise ShardError(
                "a dataset has no training examples",
                where={"dataset": dataset},
                got=", ".join(f"{name}: {split.questions}" for name, split in splits.items()) or "no split at all",
                hint="leave it out of the training datasets, or prepare it with a train split",
            )

    def _limit_training(self, dataset: str, n: int) -> None:
        size = self.n_examples(dataset, "train")
        if n < size:
            first = permutation(_LIMIT_SEED, f"limit/train/{dataset}", 0, size)[:n]
            self._tables[dataset, "train"].keep(np.sort(first).astype(np.int64))
            self._limits[dataset] = n

    def _read_table(self, dataset: str, split: str) -> ClipTable:
        manifest = self.manifests[dataset]
        if manifest.digest != manifest_digest(manifest.splits):
            raise ShardError(
                "a manifest's digest is not that of the shards it lists",
                where={"file": self.shards / dataset / MANIFEST_NAME},
                hint="it was edited; delete it and run `gst-data prepare` again",
            )
        entries = manifest.splits[split].shards if split in manifest.splits else []
        rows: list[tuple[float, ...]] = []
        clip_ids: list[str] = []
        for entry in entries:
            tar = self.shards / dataset / entry.file
            _check_size(tar, entry)
            side = read_model(tar.with_suffix(".json"), ShardSide)
            _check_side(tar, entry, side)
            shard = len(self._files)
            self._files.append(tar)
            rows += [
                (shard, s.audio_offset, s.audio_size, s.json_offset, s.json_size, s.duration_s, s.n_qa)
                for s in side.samples
            ]
            clip_ids += [s.clip_id for s in side.samples]
        return ClipTable(np.array(rows, dtype=CLIP), clip_ids)

    def _fetch(self, shard: int, offset: int, size: int) -> bytes:
        """`size` bytes of a shard; all of them or ShardError."""
        try:
            handle, keep = self._handle(shard)
            try:
                content = os.pread(handle, size, offset)
            finally:
                if not keep:
                    os.close(handle)
        except OSError as error:
            raise ShardError(
                "a shard cannot be read any more",
                where={"shard": self._files[shard]},
                got=error.strerror,
                hint="it was there when the run began; check the disk, then resume from the last checkpoint",
            ) from None
        if len(content) != size:
            raise ShardError(
                "a shard became shorter while it was in use",
                where={"shard": self._files[shard], "offset": offset},
                got=f"{len(content)} bytes",
                expected=f"{size} bytes",
                hint="run `gst-data prepare` again, then resume from the last checkpoint",
            )
        return content

    def _handle(self, shard: int) -> tuple[int, bool]:
        """An open file of the shard, and whether it stays open."""
        with self._lock:
            if shard not in self._handles:
                handle = os.open(self._files[shard], os.O_RDONLY)
                if len(self._handles) >= _MAX_OPEN_SHARDS:
                    return handle, False
                self._handles[shard] = handle
            return self._handles[shard], True


def _limited_digest(digest: str, n: int) -> str:
    return hashlib.sha256(f"{digest} first {n}".encode()).hexdigest()


def _check_size(tar: Path, entry: ShardEntry) -> None:
    """A tar cut at a member boundary reads without any error; only its recorded size shows that it is whole."""
    hint = "run `gst-data prepare` again; it rewrites this shard only"
    if not tar.is_file():
        raise ShardError("a shard is missing", where={"shard": tar}, expected=f"{entry.n_bytes} bytes", hint=hint)
    n_bytes = tar.stat().st_size
    if n_bytes != entry.n_bytes:
        raise ShardError(
            "a shard does not have its recorded size",
            where={"shard": tar},
            got=f"{n_bytes} bytes",
            expected=f"{entry.n_bytes} bytes",
            hint=hint,
        )


def _check_side(tar: Path, entry: ShardEntry, side: ShardSide) -> None:
    recorded = (entry.n_samples, entry.n_samples, entry.n_bytes, entry.sha256)
    found = (len(side.samples), side.n_samples, side.n_bytes, side.sha256)
    if found != recorded:
        raise ShardError(
            "a shard's side file contradicts the manifest",
            where={"shard": tar},
            got=f"{found[0]} samples, {found[2]} bytes, sha256 {found[3]}",
            expected=f"{recorded[0]} samples, {recorded[2]} bytes, sha256 {recorded[3]}",
            hint="run `gst-data prepare` again",
        )


def _parse_clip(content: bytes, where: dict[str, object]) -> Clip:
    try:
        return Clip.from_json(json.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise AudioError(
            "a clip's annotation is damaged",
            state="bad_annotation",
            where=where,
            got=f"{type(error).__name__}: {error}",
        ) from None


def decode(content: bytes, max_duration_s: float | None, where: dict[str, object]) -> tuple[NDArray[np.float32], int]:
    """Mono float32 samples [T] in [-1, 1] of an audio file's bytes, at most `max_duration_s` of it, and its rate in Hz.

    Raises:
        AudioError: not decodable, shorter than its header says, or empty; `where` goes into the message.
    """
    try:
        with soundfile.SoundFile(BytesIO(content)) as file:
            sample_rate_hz = file.samplerate
            wanted = file.frames
            if max_duration_s is not None:
                wanted = min(wanted, int(max_duration_s * sample_rate_hz))
            audio = file.read(wanted, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise AudioError("a clip's audio cannot be decoded", where=where, got=str(error)) from None
    if len(audio) == 0:
        raise AudioError("a clip has no audio", state="empty", where=where)
    if len(audio) < wanted:
        raise AudioError(
            "a clip's audio is cut", state="truncated", where=where, got=f"{len(audio)} frames", expected=wanted
        )
    return audio.mean(axis=1) if audio.shape[1] > 1 else np.ascontiguousarray(audio[:, 0]), sample_rate_hz

"""Random access to the examples of prepared shards: side files say where each clip lies, the store fetches it.

No tar is parsed and no torch imported. Decoding is one pinned path, soundfile to float32, so that every machine hears
the same samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.config.schema import CacheConfig
from pipeline.data.feature_cache import Audio, AudioSource
from pipeline.data.manifest import MANIFEST_NAME, DatasetManifest, manifest_digest
from pipeline.data.order import permutation
from pipeline.data.storage import Span
from pipeline.data.stores import open_store
from pipeline.data.table import CLIP, ClipTable
from pipeline.errors import AudioError, ShardError, nearest
from pipeline.types import SPLITS, Clip, Example, Qa

# Which training examples a limited run has depends on nothing that differs between arms and seeds.
_LIMIT_SEED = 20_260_519


class ShardIndex:
    """All examples of the chosen datasets, by (dataset, split, number).

    Args:
        shards: folder with one folder per dataset (see `pipeline.data.manifest`), or the URL of such a place.
        datasets: names to use; None means all that are there.
        splits: splits to use. With `train` among them every dataset must have training examples.
        max_duration_s: audio beyond this is not decoded; `n_cropped` counts the examples it touches.
        train_per_dataset: only so many training examples of each dataset, the first of a fixed permutation: the same
            ones in every run. A dataset with fewer keeps them all; other splits are whole.
        cache: how shards behind a URL are read; None: by the defaults.

    Attributes:
        features: None, or where `read` gets what stands for a clip's audio; set it before the first `read`.

    Raises:
        ConfigError: a URL whose protocol is unknown or needs a package that is not installed.
        ShardError: an unknown or unfinished dataset, a missing shard, one of another size than recorded, side files
            that contradict the manifest, or a dataset without training examples.
    """

    def __init__(
        self,
        shards: Path | str,
        datasets: Sequence[str] | None = None,
        splits: Sequence[str] = SPLITS,
        *,
        max_duration_s: float | None = None,
        train_per_dataset: int | None = None,
        cache: CacheConfig | None = None,
    ) -> None:
        self.store = open_store(shards, cache)
        self.shards = self.store.root
        self.max_duration_s = max_duration_s
        self.features: AudioSource | None = None
        found = self.store.manifests(datasets)
        names = list(found) if datasets is None else list(dict.fromkeys(datasets))
        for name in names:
            if name not in found:
                raise self._unknown(name, found)
        self.manifests = {name: found[name] for name in names}
        self.datasets = tuple(names)
        self.splits = tuple(splits)
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

    def durations_s(self, dataset: str, split: str) -> NDArray[np.float32]:
        """[examples] seconds of audio of every example, before cropping."""
        table = self._table(dataset, split)
        return np.asarray(table.clips["duration_s"][table.clip_of])

    def read(self, dataset: str, split: str, i: int) -> Example:
        """Fetch and decode one example; safe to call from many threads.

        Raises:
            AudioError: this clip's audio or annotation is damaged; others may be fine.
            ShardError: the shard itself is gone or was cut since the index was built.
        """
        table = self._table(dataset, split)
        position, question = table.locate(i)
        row = table.clips[position]
        shard, source = int(row["shard"]), self.features
        wanted = [_json_span(row)] if source else [_json_span(row), _audio_span(row)]  # in one request, where remote
        annotation, *flac = self.store.read(shard, wanted)
        where = self._where(table, position)
        clip = self._clip(table, position, question + 1, annotation, where)

        def from_shard() -> tuple[Audio, int]:
            (content,) = flac or self.store.read(shard, [_audio_span(row)])
            return decode(content, self.max_duration_s, where)

        if source:
            audio, sample_rate_hz = source.get(Path(self.store.place(shard)), int(row["audio_offset"]), from_shard)
        else:
            audio, sample_rate_hz = from_shard()
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
        table = self._table(dataset, split)
        position, question = table.locate(i)
        return self._read_clip(table, position, question + 1).qa[question]

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
            by_clip = self.store.map(lambda position: self._tasks_of(table, position), range(len(table.clips)))
            for position, tasks in enumerate(by_clip):
                asked = table.question_of[slice(*np.searchsorted(table.clip_of, (position, position + 1)))].tolist()
                found += [None if tasks is None else same.setdefault(tasks[k], tasks[k]) for k in asked]
            self._tasks[dataset, split] = found
        return self._tasks[dataset, split]

    def n_clips(self, dataset: str, split: str) -> int:
        return len(self._table(dataset, split).clips)

    def clip_numbers(self, dataset: str, split: str) -> NDArray[np.int64]:
        """The clip of every example, counted from 0 in shard order."""
        return self._table(dataset, split).clip_of.astype(np.int64)

    def clip_places(self, dataset: str, split: str) -> list[tuple[str, int]]:
        """(name of the shard, byte of its audio there) of every clip, in shard order."""
        clips = self._table(dataset, split).clips
        names = [Path(self.store.place(shard)).name for shard in clips["shard"].tolist()]
        return list(zip(names, clips["audio_offset"].tolist(), strict=True))

    def close(self) -> None:
        """Close the shard files; a later `read` opens them again."""
        self.store.close()

    def _tasks_of(self, table: ClipTable, position: int) -> list[str] | None:
        """The tasks of all questions of a clip; None where its annotation is damaged."""
        try:
            clip = self._read_clip(table, position, int(table.clips[position]["n_qa"]))
        except AudioError:
            return None
        return [qa.task for qa in clip.qa]

    def _read_clip(self, table: ClipTable, position: int, n_qa: int) -> Clip:
        """Clip number `position` without its audio; it must have `n_qa` questions or more."""
        row = table.clips[position]
        (annotation,) = self.store.read(int(row["shard"]), [_json_span(row)])
        return self._clip(table, position, n_qa, annotation, self._where(table, position))

    def _clip(self, table: ClipTable, position: int, n_qa: int, annotation: bytes, where: dict[str, object]) -> Clip:
        clip = _parse_clip(annotation, where)
        if clip.id != table.clip_ids[position] or len(clip.qa) < n_qa:
            raise AudioError(
                "a clip's annotation is not the one that the side file lists",
                state="bad_annotation",
                where=where,
                got=f"clip {clip.id} with {len(clip.qa)} questions",
                expected=f"clip {table.clip_ids[position]} with {table.clips[position]['n_qa']} questions",
            )
        return clip

    def _where(self, table: ClipTable, position: int) -> dict[str, object]:
        shard = int(table.clips[position]["shard"])
        return {"shard": self.store.place(shard), "clip": table.clip_ids[position]}

    def _table(self, dataset: str, split: str) -> ClipTable:
        if dataset not in self.manifests:
            raise self._unknown(dataset, self.manifests)
        if split not in self.splits:
            raise ShardError("this split was not indexed", where={"split": split}, expected=", ".join(self.splits))
        return self._tables[dataset, split]

    def _unknown(self, name: str, known: dict[str, DatasetManifest]) -> ShardError:
        close = nearest(name, known)
        if self.store.has_folder(name):
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
                where={"file": f"{self.shards}/{dataset}/{MANIFEST_NAME}"},
                hint="it was edited; delete it and run `gst-data prepare` again",
            )
        entries = manifest.splits[split].shards if split in manifest.splits else []
        rows: list[tuple[float, ...]] = []
        clip_ids: list[str] = []
        first, sides = self.store.add(dataset, entries)
        for shard, side in enumerate(sides, first):
            rows += [
                (shard, s.audio_offset, s.audio_size, s.json_offset, s.json_size, s.duration_s, s.n_qa)
                for s in side.samples
            ]
            clip_ids += [s.clip_id for s in side.samples]
        return ClipTable(np.array(rows, dtype=CLIP), clip_ids)


def _limited_digest(digest: str, n: int) -> str:
    return hashlib.sha256(f"{digest} first {n}".encode()).hexdigest()


def _json_span(row: np.void) -> Span:
    return int(row["json_offset"]), int(row["json_size"])


def _audio_span(row: np.void) -> Span:
    return int(row["audio_offset"]), int(row["audio_size"])


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

"""What every loader of the benchmark hands over, and the little that they share.

The modules beside this one run in processes of their own, a peer's perhaps by another Python: nothing here imports the
project, and a peer's module imports its package inside its functions. Each module has

    PACKAGE                                         name of the distribution, for its version; None: ours
    convert(source, target)                         our shards into the loader's own form, by its own writer
    batches(folder, micro_batch, seed)              endless batches, shuffled, decoded by one worker

Every `Batch` has the audio of `micro_batch` clips, padded, with each clip's question and answer, as a model needs them.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

SHUFFLE_BUFFER = 1000  # clips, of loaders that shuffle by a buffer: what webdataset's documentation uses
AHEAD = 2  # batches that torch's DataLoader lets a worker be ahead, its default


@dataclass(frozen=True)
class Decoded:
    """One clip: audio [T] float32 and its first question."""

    id: str
    audio: NDArray[np.float32]
    question: str
    answer: str


@dataclass
class Batch:
    """Audio [B, T] float32, padded with zeros, and what belongs to each row."""

    audio: torch.Tensor
    lengths: list[int]
    ids: list[str]
    questions: list[str]
    answers: list[str]


def decode(flac: bytes) -> NDArray[np.float32]:
    """Samples [T] of a mono file: the decoder that all loaders use which do not bring their own."""
    audio, _ = soundfile.read(io.BytesIO(flac), dtype="float32")
    return audio  # type: ignore[no-any-return]


def decoded(flac: bytes, clip: dict[str, Any]) -> Decoded:
    """A clip from its two members of a shard."""
    return Decoded(clip["id"], decode(flac), clip["qa"][0]["question"], clip["qa"][0]["answer"])


def collate(clips: Sequence[Decoded]) -> Batch:
    """Clips as one batch; in a DataLoader's worker right in shared memory, as torch's own `default_collate` does."""
    lengths = [len(clip.audio) for clip in clips]
    audio = torch.zeros(0) if torch.utils.data.get_worker_info() is None else _shared(len(clips) * max(lengths))
    audio = audio.resize_(len(clips), max(lengths))
    for row, clip in zip(audio, clips, strict=True):
        row[: len(clip.audio)] = torch.from_numpy(clip.audio)
        row[len(clip.audio) :] = 0
    ids, questions, answers = ([getattr(clip, of) for clip in clips] for of in ("id", "question", "answer"))
    return Batch(audio, lengths, ids, questions, answers)


def _shared(n: int) -> torch.Tensor:
    return torch.empty(0, dtype=torch.float32).new(torch.UntypedStorage._new_shared(4 * n))


def digest(audio: NDArray[np.float32], question: str, answer: str) -> str:
    """Identifies what a clip was decoded to, and its text."""
    content = hashlib.blake2b(np.ascontiguousarray(audio).tobytes(), digest_size=16)
    content.update(json.dumps([question, answer]).encode())
    return content.hexdigest()


def digests(batch: Batch) -> dict[str, str]:
    """Clip -> digest, of a batch; what lies behind a clip's end must be silent."""
    rows = batch.audio.numpy()
    assert not any(row[n:].any() for row, n in zip(rows, batch.lengths, strict=True)), "padded with something"
    parts = zip(batch.ids, rows, batch.lengths, batch.questions, batch.answers, strict=True)
    return {clip: digest(row[:n], question, answer) for clip, row, n, question, answer in parts}


def tars(shards: Path) -> list[Path]:
    """The shards of one dataset, which are plain webdataset tars."""
    return sorted(shards.glob("*/*.tar"))


def members(shards: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """FLAC file and annotation of every clip, in the order of the shards."""
    for path in tars(shards):
        yield from members_of(path)


def members_of(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The same of one shard."""
    with tarfile.open(path) as tar:
        found: dict[str, bytes] = {}
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name.rpartition(".")[2]] = file.read()
            if len(found) == 2:
                yield found["flac"], json.loads(found["json"])
                found = {}

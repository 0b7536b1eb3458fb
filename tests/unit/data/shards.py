"""Tiny shards for tests, written with webdataset and the manifest models, without data_prep."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
import webdataset

from pipeline.data.manifest import (
    MANIFEST_NAME,
    DatasetManifest,
    SampleEntry,
    ShardEntry,
    ShardSide,
    SplitEntry,
    manifest_digest,
    write_model,
)
from pipeline.types import Clip, Qa

SAMPLE_RATE_HZ = 8000
TASKS = ("presence", "emotion", "caption")
CLIPS_PER_SHARD = 4


def duration_s(number: int) -> float:
    return 0.01 * (1 + number % 3)


def level(number: int) -> float:
    """The constant sample value of clip `number`: audio shows which clip it is."""
    return (number + 1) / 1024


def n_qa(number: int) -> int:
    return 1 + number % 2


def task(number: int, question: int) -> str:
    return TASKS[(number + question) % len(TASKS)]


def make_clip(dataset: str, split: str, number: int) -> Clip:
    qa = tuple(
        Qa(f"{dataset}-{split}-{number}-{k}", task(number, k), f"question {k}?", f"answer {number} {k}")
        for k in range(n_qa(number))
    )
    return Clip(f"clip.{split}.{number}", dataset, split, "sound", duration_s(number), SAMPLE_RATE_HZ, qa)


def flac_bytes(number: int, channels: int = 1) -> bytes:
    frames = round(duration_s(number) * SAMPLE_RATE_HZ)
    buffer = io.BytesIO()
    audio = np.full((frames, channels), level(number), dtype=np.float32)
    soundfile.write(buffer, audio, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def write_shard(folder: Path, dataset: str, split: str, shard: int, numbers: range, channels: int) -> ShardEntry:
    stem = f"{dataset}-{split}-{shard:06d}"
    tar = folder / f"{stem}.tar"
    clips = {f"{stem}-{k:05d}": make_clip(dataset, split, number) for k, number in enumerate(numbers)}
    with webdataset.TarWriter(str(tar), mtime=0) as writer:
        for (key, clip), number in zip(clips.items(), numbers, strict=True):
            writer.write({"__key__": key, "flac": flac_bytes(number, channels), "json": clip.to_json()})
    with tarfile.open(tar) as members:
        places = {member.name: (member.offset_data, member.size) for member in members}
    samples = [
        SampleEntry(
            key=key,
            clip_id=clip.id,
            audio_offset=places[f"{key}.flac"][0],
            audio_size=places[f"{key}.flac"][1],
            json_offset=places[f"{key}.json"][0],
            json_size=places[f"{key}.json"][1],
            duration_s=clip.duration_s,
            n_qa=len(clip.qa),
        )
        for key, clip in clips.items()
    ]
    content = tar.read_bytes()
    entry = ShardEntry(
        file=tar.name, n_samples=len(samples), n_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    side = ShardSide(
        dataset=dataset,
        split=split,
        shard=stem,
        plan_hash="plan",
        n_samples=entry.n_samples,
        n_bytes=entry.n_bytes,
        sha256=entry.sha256,
        samples=samples,
    )
    write_model(tar.with_suffix(".json"), side)
    return entry


def write_dataset(shards: Path, dataset: str, clips: Mapping[str, int], channels: int = 1) -> None:
    """One dataset with `clips[split]` clips; clip k has n_qa(k) questions."""
    folder = shards / dataset
    folder.mkdir(parents=True)
    splits = {}
    for split, n in clips.items():
        entries = [
            write_shard(folder, dataset, split, shard, range(first, min(first + CLIPS_PER_SHARD, n)), channels)
            for shard, first in enumerate(range(0, n, CLIPS_PER_SHARD))
        ]
        splits[split] = SplitEntry(clips=n, questions=sum(map(n_qa, range(n))), hours=0.0, shards=entries)
    manifest = DatasetManifest(
        dataset=dataset,
        domain="sound",
        adapter="test",
        licence="CC0-1.0",
        plan_hash="plan",
        digest=manifest_digest(splits),
        splits=splits,
    )
    write_model(folder / MANIFEST_NAME, manifest)


def damage(shards: Path, dataset: str, split: str, number: int, member: str = "audio") -> None:
    """Overwrite one member of clip `number` with zeros; sizes stay as recorded."""
    shard, k = divmod(number, CLIPS_PER_SHARD)
    tar = shards / dataset / f"{dataset}-{split}-{shard:06d}.tar"
    sample = ShardSide.model_validate_json(tar.with_suffix(".json").read_bytes()).samples[k]
    with open(tar, "r+b") as file:
        file.seek(getattr(sample, f"{member}_offset"))
        file.write(bytes(getattr(sample, f"{member}_size")))

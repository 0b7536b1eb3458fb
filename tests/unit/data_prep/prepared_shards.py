"""Prepared shards for tests: small real ones, and ways to change what lies in them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
from numpy.typing import NDArray
from prep_corpora import line, noise, write_lines

from data_prep.adapters.jsonl import JsonlCorpus
from data_prep.planning.plan import PlanOptions, make_plans
from data_prep.shards.executors import make_executor
from data_prep.shards.finish import Thresholds
from data_prep.shards.prepare import prepare
from pipeline.data.manifest import DatasetManifest, ShardSide, manifest_digest, read_model, write_model

Members = list[tuple[str, bytes]]
RATE_HZ = 16_000


def prepare_folder(corpus: Path, out: Path, name: str = "noises", **options: Any) -> Path:
    """Shards of a `metadata.jsonl` corpus, whatever it lost; returns `out`."""
    plans = make_plans([(JsonlCorpus(name), corpus)], out, PlanOptions(**options))
    prepare(plans, make_executor("local", 1), thresholds=Thresholds(1.0, 1.0))
    return out


def prepare_clips(
    folder: Path, out: Path, name: str, clips: list[dict[str, Any]], audio: dict[int, NDArray[Any]] | None = None
) -> Path:
    """Shards of a dataset with one line of `metadata.jsonl` a clip; `audio` gives the samples of some, by number."""
    lines = [line(number, **{"split": "train", "dataset": name, **clip}) for number, clip in enumerate(clips)]
    write_lines(folder, lines)
    (folder / "audio").mkdir(exist_ok=True)
    seeds = sum(name.encode())
    for number, value in enumerate(lines):
        samples = (audio or {}).get(number, noise(0.3, seed=1000 * seeds + number))
        soundfile.write(folder / value["audio"], samples, RATE_HZ, subtype="PCM_16")
    return prepare_folder(folder, out, name)


def rewrite(folder: Path, change: Callable[[Members], Members], split: str = "train", *, fit: bool = True) -> None:
    """Change the first tar of a split, and make sizes, hashes and offsets fit again: only the content is wrong then.

    With `fit` False the offsets and the number of samples of the side file stay as they were.
    """
    stem = folder / f"{folder.name}-{split}-000000"
    tar_path, side_path = stem.with_suffix(".tar"), stem.with_suffix(".json")
    with tarfile.open(tar_path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(tar_path, "w") as tar:
        for name, content in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    side = read_model(side_path, ShardSide)
    if fit:
        with tarfile.open(tar_path) as tar:
            places = {member.name: (member.offset_data, member.size) for member in tar}
        samples = []
        for sample in side.samples:
            audio, text = (places[f"{sample.key}.{kind}"] for kind in ("flac", "json"))
            fields = ("audio_offset", "audio_size", "json_offset", "json_size")
            samples.append(sample.model_copy(update=dict(zip(fields, (*audio, *text), strict=True))))
        side = side.model_copy(update={"samples": samples})
    vouch(folder, split, side)


def vouch(folder: Path, split: str, side: ShardSide) -> None:
    """Write a side file for the tar as it is now, and a manifest that believes both."""
    tar_path = folder / f"{folder.name}-{split}-000000.tar"
    content = tar_path.read_bytes()
    facts = {"n_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_model(tar_path.with_suffix(".json"), side.model_copy(update=facts))
    manifest = read_model(folder / "manifest.json", DatasetManifest)
    entry = manifest.splits[split]
    shards = [entry.shards[0].model_copy(update=facts), *entry.shards[1:]]
    splits = {**manifest.splits, split: entry.model_copy(update={"shards": shards})}
    change_manifest(folder, splits=splits, digest=manifest_digest(splits))


def change_manifest(folder: Path, **fields: Any) -> None:
    path = folder / "manifest.json"
    write_model(path, read_model(path, DatasetManifest).model_copy(update=fields))


def change_json(change: Callable[[dict[str, Any]], Any], number: int = 0) -> Callable[[Members], Members]:
    """A change for `rewrite`: of the JSON of one sample."""

    def apply(members: Members) -> Members:
        name, content = members[2 * number + 1]
        value = json.loads(content)
        change(value)
        return [*members[: 2 * number + 1], (name, json.dumps(value).encode()), *members[2 * number + 2 :]]

    return apply

"""Plain webdataset on our shards, as its documentation builds a training pipeline: shards and a buffer of undecoded
samples shuffled, decoded, batched inside the worker, and `WebLoader` on top.

`wds.autodecode` would decode FLAC by torchaudio, which has no release for this torch; soundfile does it instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.loader_peers.contract import SHUFFLE_BUFFER, Batch, Decoded, collate, decoded, tars

PACKAGE = "webdataset"


def convert(source: Path, target: Path) -> None:
    """It reads our shards as they are."""
    for path in tars(source):
        (target / "shards").mkdir(parents=True, exist_ok=True)
        (target / "shards" / path.name).symlink_to(path.resolve())


def batches(folder: Path, micro_batch: int, seed: int) -> Iterator[Batch]:
    import webdataset as wds

    shards = [str(path) for path in tars(folder)]
    dataset = (
        wds.WebDataset(shards, shardshuffle=len(shards), seed=seed)
        .shuffle(SHUFFLE_BUFFER)
        .map(_decoded)
        .batched(micro_batch, collation_fn=collate, partial=False)
        .repeat()
    )
    yield from wds.WebLoader(dataset, batch_size=None, num_workers=1)


def _decoded(sample: dict[str, Any]) -> Decoded:
    return decoded(sample["flac"], json.loads(sample["json"]))

"""litdata's `StreamingDataset` from local chunks of the size that it recommends, shuffled, complete batches only.

FLAC files are stored as bytes and decoded by soundfile; its own audio leaf would use torchcodec.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.loader_peers.contract import Batch, Decoded, collate, decoded, members_of, tars

PACKAGE = "litdata"


def convert(source: Path, target: Path) -> None:
    import litdata

    litdata.optimize(
        fn=samples_of,
        inputs=[str(path) for path in tars(source)],
        output_dir=str(target),
        chunk_bytes="64MB",
        num_workers=1,
    )


def samples_of(path: str) -> Iterator[dict[str, Any]]:
    """What is stored of every clip of one of our shards."""
    for flac, clip in members_of(Path(path)):
        yield {"audio": flac, "clip": json.dumps(clip)}


def transform(sample: dict[str, Any]) -> Decoded:
    return decoded(sample["audio"], json.loads(sample["clip"]))


def batches(folder: Path, micro_batch: int, seed: int) -> Iterator[Batch]:
    import litdata

    dataset = litdata.StreamingDataset(str(folder), shuffle=True, drop_last=True, seed=seed, transform=transform)
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=micro_batch, num_workers=1, collate_fn=collate, persistent_workers=True
    )
    while True:
        yield from loader

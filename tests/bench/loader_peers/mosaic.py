"""mosaicml-streaming from local MDS shards of the default size; defaults, which its guide on performance recommends.

`batch_size` is given to data set and loader, as it asks for. One epoch holds many passes over the clips, so that the
pauses between epochs, which a large data set rarely has, do not count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.bench.loader_peers.contract import Batch, Decoded, collate, decoded, members

PACKAGE = "mosaicml-streaming"
PASSES = 100


def convert(source: Path, target: Path) -> None:
    MDSWriter = _package().MDSWriter
    with MDSWriter(out=str(target), columns={"audio": "bytes", "clip": "str"}) as writer:
        for flac, clip in members(source):
            writer.write({"audio": flac, "clip": json.dumps(clip)})


def batches(folder: Path, micro_batch: int, seed: int) -> Iterator[Batch]:
    package = _package()

    class Clips(package.StreamingDataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, number: int) -> Decoded:
            sample = super().__getitem__(number)
            return decoded(sample["audio"], json.loads(sample["clip"]))

    n_clips = sum(shard["samples"] for shard in json.loads((folder / "index.json").read_text())["shards"])
    dataset = Clips(
        local=str(folder), shuffle=True, shuffle_seed=seed, batch_size=micro_batch, epoch_size=PASSES * n_clips
    )
    loader = package.StreamingDataLoader(
        dataset, batch_size=micro_batch, num_workers=1, collate_fn=_collate, drop_last=True, persistent_workers=True
    )
    while True:
        for batch in loader:
            yield Batch(**batch)


def _collate(clips: list[Decoded]) -> dict[str, Any]:
    """As a dict: its `StreamingDataLoader` counts the samples of a batch, and knows no class of ours."""
    return vars(collate(clips))


def _package() -> Any:
    """`streaming`, which imports torchvision for its image data sets.

    The torchvision of PyPI is compiled for CUDA. Beside a torch for CPUs its operators are missing, and it stops at the
    first one that it describes; no operator of it is used here.
    """
    if not torch.backends.cuda.is_built():
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import streaming

    return streaming

"""Lhotse Shar as its tutorial trains from it: repeated and shuffled shards, a dynamic sampler inside the worker.

Audio is decoded and padded by Lhotse's own `AudioSamples`. The sampler's buffer is 1,000 clips, not the default of
20,000, which would hold every clip of the benchmark ten times before the first batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.bench.loader_peers.contract import SHUFFLE_BUFFER, Batch, members

PACKAGE = "lhotse"


def convert(source: Path, target: Path) -> None:
    from lhotse import Recording, SupervisionSegment
    from lhotse.shar import SharWriter

    target.mkdir(parents=True)
    with SharWriter(str(target), fields={"recording": "flac"}) as writer:
        for flac, clip in members(source):
            cut = Recording.from_bytes(flac, clip["id"]).to_cut()
            cut.id = clip["id"]
            asked = {"question": clip["qa"][0]["question"]}
            text = clip["qa"][0]["answer"]
            cut.supervisions = [SupervisionSegment(cut.id, cut.id, 0.0, cut.duration, text=text, custom=asked)]
            writer.write(cut)


def batches(folder: Path, micro_batch: int, seed: int) -> Iterator[Batch]:
    from lhotse import CutSet
    from lhotse.dataset import AudioSamples, DynamicCutSampler, IterableDatasetWrapper, make_worker_init_fn

    class Clips(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.read = AudioSamples()

        def __getitem__(self, cuts: Any) -> Batch:
            audio, lengths = self.read(cuts)
            asked = [cut.supervisions[0] for cut in cuts]
            return Batch(
                audio,
                lengths.tolist(),
                [segment.recording_id for segment in asked],
                [segment.question for segment in asked],
                [segment.text for segment in asked],
            )

    cuts = CutSet.from_shar(in_dir=folder, shuffle_shards=True, stateful_shuffle=True, seed="randomized").repeat()
    sampler = DynamicCutSampler(
        cuts, max_cuts=micro_batch, shuffle=True, shuffle_buffer_size=SHUFFLE_BUFFER, rank=0, world_size=1, seed=seed
    )
    yield from torch.utils.data.DataLoader(
        IterableDatasetWrapper(Clips(), sampler, auto_increment_epoch=True),
        batch_size=None,
        num_workers=1,
        worker_init_fn=make_worker_init_fn(seed=seed),
    )

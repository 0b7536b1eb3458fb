"""Megatron-Energon on our shards with the index that its own `prepare` makes beside them.

Settings of its quick start: `shuffle_buffer_size=100, max_samples_per_sequence=100`. The decoder is off and soundfile
called in `encode_sample`, which comes after the shuffle buffer, so that no decoded audio lies in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.loader_peers.contract import Batch, collate, decoded, tars

PACKAGE = "megatron-energon"
BUFFER = 100


def convert(source: Path, target: Path) -> None:
    from megatron.energon.flavors import BaseWebdatasetFactory

    target.mkdir(parents=True)
    for path in tars(source):
        (target / path.name).symlink_to(path.resolve())
    names = sorted(path.name for path in target.glob("*.tar"))
    BaseWebdatasetFactory.prepare_dataset(target, names, split_parts_ratio=[("train", 1.0)], workers=1)
    described = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
    (target / ".nv-meta" / "dataset.yaml").write_text(described)


def batches(folder: Path, micro_batch: int, seed: int) -> Iterator[Batch]:
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        Sample,
        WorkerConfig,
        basic_sample_keys,
        edataclass,
        get_loader,
        get_train_dataset,
        stateless,
    )

    @edataclass
    class Clip(Sample):
        content: Any

    @stateless
    def cook(sample: dict[str, Any]) -> Clip:
        return Clip(**basic_sample_keys(sample), content=(sample["flac"], sample["json"]))

    class Encoder(DefaultTaskEncoder):  # type: ignore[misc]
        decoder = None
        cookers = (Cooker(cook),)

        @stateless
        def encode_sample(self, sample: Clip) -> Clip:
            flac, annotation = sample.content
            sample.content = decoded(flac, json.loads(annotation))
            return sample

        @stateless
        def batch(self, samples: list[Clip]) -> dict[str, Any]:
            return vars(collate([sample.content for sample in samples]))

    dataset = get_train_dataset(
        folder,
        batch_size=micro_batch,
        shuffle_buffer_size=BUFFER,
        max_samples_per_sequence=BUFFER,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=1, seed_offset=seed),
        task_encoder=Encoder(),
    )
    names = Batch.__dataclass_fields__
    for batch in get_loader(dataset):
        yield Batch(**{name: batch[name] for name in names})

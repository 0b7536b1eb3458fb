"""Our `TrainLoader` with one worker thread; four micro-batches a step, read two steps ahead as in training."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.index import ShardIndex
from pipeline.data.loader import TrainLoader
from pipeline.data.mixture import Mixture, uniform_weights
from pipeline.models.encode import AnswerEncoder
from pipeline.models.load import load_processor
from pipeline.types import Example, MicroBatch
from tests.bench.loader_peers.contract import Batch, Decoded, collate

PACKAGE = None
MICRO_BATCHES = 4  # a step
MODEL = "GST_BENCH_MODEL"  # environment variable: encode for the model in this folder, too


def convert(source: Path, target: Path) -> None:
    """They are our shards."""


def batches(folder: Path, micro_batch: int, seed: int) -> Iterator[Batch]:
    encode = AnswerEncoder(load_processor(os.environ[MODEL]), fast=True) if os.environ.get(MODEL) else _collated
    index = ShardIndex(folder, splits=("train",))
    loader = TrainLoader(
        index,
        Mixture(index.datasets, seed, uniform_weights(index.datasets)),
        encode,
        global_batch=MICRO_BATCHES * micro_batch,
        micro_batch=micro_batch,
        comm_rank=0,
        world_size=1,
        seed=seed,
        workers=1,
    )
    while True:
        yield from map(_batch, loader.next_step())


def _collated(examples: Sequence[Example]) -> dict[str, Any]:
    """Padded audio instead of a model's inputs."""
    clips = [Decoded(example.id, example.audio, example.question, example.answer) for example in examples]
    return {"batch": collate(clips)}


def _batch(got: MicroBatch) -> Batch:
    if "batch" not in got.inputs:  # encoded: counted, and not looked at
        lengths = [0] * len(got.example_ids)
        return Batch(got.inputs["labels"], lengths, list(got.example_ids), [], [])
    batch: Batch = got.inputs["batch"]
    batch.ids = [name.rpartition("#")[0] for name in batch.ids]
    return batch

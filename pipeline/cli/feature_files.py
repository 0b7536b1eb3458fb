"""The cache of features that a recipe asks for: which files, how they are filled, how a run reads them."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from pipeline.config import Recipe
from pipeline.data.batches import BadSample, try_read
from pipeline.data.feature_cache import CachedShard, FeatureCache, FeatureKey, cached_shards
from pipeline.data.index import ShardIndex
from pipeline.errors import ConfigError
from pipeline.models.encode import AnswerEncoder
from pipeline.models.exported import is_saved_whole
from pipeline.models.features import LogMel
from pipeline.models.frozen_encoder import OutputsOf, encoder_digest, use_outputs
from pipeline.models.load import load_processor
from pipeline.types import ClipFeatures, Example

BATCH_CLIPS = 8

Compute = Callable[[Sequence[Example]], list[ClipFeatures]]


def open_features(
    recipe: Recipe, index: ShardIndex, encode: AnswerEncoder, model: torch.nn.Module
) -> FeatureCache | None:
    """Let the index read what the recipe's cache holds; with `cache: encoder` the model loses its audio encoder.

    Call it on every rank before the engine is built.

    Raises:
        ConfigError: the model's front is not one whose features can be cached, or the run would save a whole model.
        ModelError: the audio encoder's outputs are not the same all through training.
        ShardError: `cache: encoder`, and clips whose outputs are not there.
    """
    kind = recipe.data.features.cache
    if kind == "none":
        return None
    encoder = None
    if kind == "encoder":
        if recipe.train.save_model and is_saved_whole(recipe.model):
            raise ConfigError(
                "a model that is trained without its audio encoder cannot be saved whole",
                where={"keys": "data.features.cache, train.save_model"},
                got="encoder, true",
                hint="use `cache: log_mel`",
            )
        encoder = encoder_digest(model)
        encode.outputs_width = use_outputs(model)
    shards = list(cached_shards(feature_key(recipe, encode, encoder), features_folder(recipe), index.manifests))
    cache = FeatureCache(shards, complete=kind == "encoder")
    index.features = cache
    return cache


def features_folder(recipe: Recipe) -> Path:
    folder = recipe.data.features.folder
    return Path(recipe.out) / "features" if folder is None else Path(folder)


def feature_key(recipe: Recipe, encode: AnswerEncoder, encoder: str | None) -> FeatureKey:
    """What the recipe's features depend on; `encoder`: the digest of the audio encoder, for its outputs.

    Raises:
        ConfigError: the model's front is not one whose features can be cached.
    """
    made_from = {"log_mel": _log_mel(recipe, encode).digest, "max_duration_s": recipe.data.max_duration_s}
    if encoder is not None:
        made_from["encoder"] = encoder
    return FeatureKey(recipe.data.features.cache, made_from)


def _log_mel(recipe: Recipe, encode: AnswerEncoder) -> LogMel:
    if encode.log_mel is None:
        raise ConfigError(
            "features of this model's front cannot be cached",
            where={"key": "data.features.cache", "model": recipe.model.path},
            expected="a family whose front is Whisper's, with a plain Whisper feature extractor",
            hint="data.features.cache=none",
        )
    return encode.log_mel


@dataclass(frozen=True)
class Filled:
    """What filling the cache of one shard, or of many, came to."""

    shards: int = 0
    clips: int = 0
    unreadable: int = 0

    def __add__(self, other: Filled) -> Filled:
        return Filled(self.shards + other.shards, self.clips + other.clips, self.unreadable + other.unreadable)


class Filler:
    """Computes the features of all clips of a recipe's datasets, every split and question, whatever part a run uses."""

    def __init__(self, recipe: Recipe) -> None:
        data = recipe.data
        self.index = ShardIndex(data.shards, data.datasets, max_duration_s=data.max_duration_s, cache=data.cache)
        encode = AnswerEncoder(load_processor(recipe.model.path), fast=True)
        self._log_mel = _log_mel(recipe, encode)
        self._compute: Compute = self._frames
        encoder = None
        if data.features.cache == "encoder":
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            outputs = OutputsOf(recipe.model, encode, device)
            self._compute, encoder = outputs, outputs.digest
        key = feature_key(recipe, encode, encoder)
        self.shards = list(cached_shards(key, features_folder(recipe), self.index.manifests))
        self._clips: dict[str, dict[str, list[tuple[int, str, int]]]] = {}

    def missing(self) -> list[int]:
        """Numbers of the shards whose values are not there."""
        return [number for number, shard in enumerate(self.shards) if shard.entries() is None]

    def fill(self, number: int) -> Filled:
        """Compute and write the values of one shard; a clip that cannot be read, or asks nothing, has none."""
        shard = self.shards[number]
        clips = self._clips_of(shard)
        written = shard.write(self._values(shard.dataset, clips))
        return Filled(1, written, len(clips) - written)

    def _clips_of(self, shard: CachedShard) -> list[tuple[int, str, int]]:
        """(byte of the audio in the shard, split, the clip's first example) of every clip of a shard."""
        if shard.dataset not in self._clips:
            self._clips[shard.dataset] = self._clips_by_shard(shard.dataset)
        return self._clips[shard.dataset][shard.tar]

    def _clips_by_shard(self, dataset: str) -> dict[str, list[tuple[int, str, int]]]:
        found: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
        for split in self.index.manifests[dataset].splits:
            places = self.index.clip_places(dataset, split)
            asked, first = np.unique(self.index.clip_numbers(dataset, split), return_index=True)
            for clip, example in zip(asked.tolist(), first.tolist(), strict=True):
                tar, offset = places[clip]
                found[tar].append((offset, split, example))
        return found

    def _values(self, dataset: str, clips: list[tuple[int, str, int]]) -> Iterator[tuple[int, int, ClipFeatures]]:
        for start in range(0, len(clips), BATCH_CLIPS):
            read = [
                (offset, try_read(self.index, dataset, split, i)) for offset, split, i in clips[start:][:BATCH_CLIPS]
            ]
            good = [(offset, example) for offset, example in read if not isinstance(example, BadSample)]
            if good:
                values = self._compute([example for _, example in good])
                for (offset, example), features in zip(good, values, strict=True):
                    yield offset, example.sample_rate_hz, features

    def _frames(self, examples: Sequence[Example]) -> list[ClipFeatures]:
        return [ClipFeatures("log_mel", self._log_mel(each.audio).numpy(), len(each.audio)) for each in examples]


def fill_missing(recipe: Recipe, processes: int = 1) -> tuple[Filled, int, float]:
    """Compute what the cache lacks; returns that, the number of all its shards, and the seconds it took.

    What is in a file does not depend on the number of processes. A job that was stopped goes on at the next shard, and
    several may work at once: at worst a shard is computed twice.

    Raises:
        ConfigError: the recipe has no cache, or the model's front is not one whose features can be cached.
        ModelError: the model cannot be loaded, or the place of its encoder is not known.
        ShardError: as `ShardIndex`.
    """
    if recipe.data.features.cache == "none":
        raise ConfigError(
            "this recipe caches no features",
            where={"key": "data.features.cache"},
            got="none",
            expected="log_mel or encoder",
        )
    started = time.monotonic()
    filler = Filler(recipe)
    missing = filler.missing()
    total = Filled()
    if processes == 1 or len(missing) < 2:
        for number in missing:
            total += filler.fill(number)
    else:
        context = get_context("spawn")  # forked processes may hang in the threads of numerical libraries
        with ProcessPoolExecutor(min(processes, len(missing)), context, _start, (recipe, processes)) as pool:
            for filled in pool.map(_fill, missing):
                total += filled
    return total, len(filler.shards), time.monotonic() - started


_filler: Filler | None = None  # of a worker process


def _start(recipe: Recipe, processes: int) -> None:
    global _filler
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    _filler = Filler(recipe)


def _fill(number: int) -> Filled:
    assert _filler is not None
    return _filler.fill(number)

"""Features beside the shards: what is read is what was written, and everything else is a miss that is counted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.feature_cache import CachedShard, FeatureCache, FeatureKey, cached_shards
from pipeline.data.index import ShardIndex
from pipeline.errors import AudioError, ShardError
from pipeline.types import ClipFeatures

from .shards import SAMPLE_RATE_HZ, damage, write_dataset

KEY = FeatureKey("log_mel", {"log_mel": "a digest", "max_duration_s": 30.0})
N_CLIPS = 6  # in two shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "shards", "alpha", {"train": N_CLIPS, "val": 2})
    return tmp_path


def open_index(folder: Path) -> ShardIndex:
    return ShardIndex(folder / "shards")


def shards_of(index: ShardIndex, folder: Path, key: FeatureKey = KEY) -> list[CachedShard]:
    return list(cached_shards(key, folder / "cache", index.manifests))


def values_of(index: ShardIndex, shard: CachedShard) -> Iterator[tuple[int, int, ClipFeatures]]:
    """Three rows of a clip's first samples, in place of a spectrogram; nothing for a clip that cannot be read."""
    split = shard.tar.split("-")[1]
    places = index.clip_places("alpha", split)
    for example, clip in enumerate(index.clip_numbers("alpha", split).tolist()):
        if places[clip][0] == shard.tar and index.example_id("alpha", split, example).endswith("#0"):
            try:
                read = index.read("alpha", split, example)
            except AudioError:
                continue
            values = np.stack([read.audio[: 5 + clip] * scale for scale in (1, 2, 3)])
            yield places[clip][1], SAMPLE_RATE_HZ, ClipFeatures("log_mel", values, len(read.audio))


def fill(folder: Path) -> list[CachedShard]:
    index = open_index(folder)
    shards = shards_of(index, folder)
    for shard in shards:
        shard.write(values_of(index, shard))
    return shards


def with_cache(folder: Path, *, complete: bool = False, key: FeatureKey = KEY) -> tuple[ShardIndex, FeatureCache]:
    index = open_index(folder)
    index.features = cache = FeatureCache(shards_of(index, folder, key), complete=complete)
    return index, cache


def examples(index: ShardIndex) -> list[tuple[str, int]]:
    return [(split, i) for split in ("train", "val") for i in range(index.n_examples("alpha", split))]


def test_every_example_gets_the_values_of_its_clip(folder: Path) -> None:
    fill(folder)
    plain = open_index(folder)
    index, cache = with_cache(folder, complete=True)
    for split, i in examples(plain):
        clip = plain.clip_numbers("alpha", split)[i]
        wanted, got = plain.read("alpha", split, i), index.read("alpha", split, i)
        assert isinstance(got.audio, ClipFeatures) and got.audio.kind == "log_mel"
        assert len(got.audio) == len(wanted.audio) and got.sample_rate_hz == wanted.sample_rate_hz
        assert got.audio.values.dtype == np.float32
        np.testing.assert_array_equal(
            got.audio.values, np.stack([wanted.audio[: 5 + clip] * scale for scale in (1, 2, 3)])
        )
        assert (got.id, got.question, got.answers, got.task) == (
            wanted.id,
            wanted.question,
            wanted.answers,
            wanted.task,
        )
    n = len(examples(plain))
    assert cache.counts() == {"cached": n, "missing": 0, "damaged": 0, "shards_lacking": 0}


def test_without_values_examples_are_decoded_and_counted(folder: Path) -> None:
    shards = fill(folder)
    shards[1].side.unlink()
    index, cache = with_cache(folder)
    got = [index.read("alpha", "train", i).audio for i in range(index.n_examples("alpha", "train"))]
    plain = open_index(folder)
    decoded = [i for i, audio in enumerate(got) if not isinstance(audio, ClipFeatures)]
    assert decoded == np.flatnonzero(plain.clip_numbers("alpha", "train") >= 4).tolist() != []
    for i in decoded:
        np.testing.assert_array_equal(got[i], plain.read("alpha", "train", i).audio)
    counts = cache.counts()
    assert (counts["missing"], counts["shards_lacking"]) == (len(decoded), 1)
    assert counts["cached"] == len(got) - len(decoded)


def test_values_made_otherwise_are_not_found(folder: Path) -> None:
    fill(folder)
    other = FeatureKey("log_mel", {**KEY.made_from, "max_duration_s": 10.0})
    index, cache = with_cache(folder, key=other)
    assert not isinstance(index.read("alpha", "train", 0).audio, ClipFeatures)
    assert cache.counts()["shards_lacking"] == 3


def test_values_of_another_shard_of_that_name_are_not_found(folder: Path) -> None:
    (old, *_) = fill(folder)
    shutil.rmtree(folder / "shards")
    write_dataset(folder / "shards", "alpha", {"train": N_CLIPS, "val": 2}, channels=2)
    index = open_index(folder)
    (new, *_) = shards_of(index, folder)
    assert new.tar == old.tar and new.entries() is None
    # Nor where the files are given the name that the new shard's would have.
    shutil.copy(old.values, new.values)
    shutil.copy(old.side, new.side)
    assert new.entries() is None


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_harmed_file_is_never_read_wrongly(folder: Path, harm: str) -> None:
    (first, *_) = fill(folder)
    index, cache = with_cache(folder)  # opened while all was well
    content = bytearray(first.values.read_bytes())
    if harm == "flip":
        content[3] ^= 1
        first.values.write_bytes(content)
    elif harm == "cut":
        first.values.write_bytes(content[:10])
    else:
        first.values.unlink()
    got = index.read("alpha", "train", 0).audio
    np.testing.assert_array_equal(got, open_index(folder).read("alpha", "train", 0).audio)
    assert cache.counts()["damaged"] == 1
    reopened, _ = with_cache(folder)
    assert not isinstance(reopened.read("alpha", "train", 0).audio, ClipFeatures)


def test_where_all_must_be_there_what_lacks_is_refused(folder: Path) -> None:
    (first, *_) = fill(folder)
    index, _ = with_cache(folder, complete=True)
    content = bytearray(first.values.read_bytes())
    content[0] ^= 1
    first.values.write_bytes(content)
    with pytest.raises(ShardError, match="damaged"):
        index.read("alpha", "train", 0)
    first.side.unlink()
    with pytest.raises(ShardError, match="lacks shards"):
        with_cache(folder, complete=True)


def test_a_bad_clip_stays_a_bad_sample(folder: Path) -> None:
    damage(folder / "shards", "alpha", "train", 1)
    fill(folder)
    index, cache = with_cache(folder, complete=True)
    (bad,) = np.flatnonzero(open_index(folder).clip_numbers("alpha", "train") == 1)[:1]
    with pytest.raises(AudioError):
        index.read("alpha", "train", int(bad))
    assert isinstance(index.read("alpha", "train", 0).audio, ClipFeatures)
    assert cache.counts()["missing"] == 1


def test_a_writer_that_is_stopped_leaves_nothing_that_is_read(folder: Path) -> None:
    index = open_index(folder)
    (first, *_) = shards_of(index, folder)

    def stopped() -> Iterator[tuple[int, int, ClipFeatures]]:
        yield next(values_of(index, first))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.write(stopped())
    assert first.entries() is None and list(first.values.parent.iterdir()) == []
    assert first.write(values_of(index, first)) == 4 and len(first.entries()) == 4


def test_writing_again_gives_the_same_bytes(folder: Path) -> None:
    before = [shard.values.read_bytes() + shard.side.read_bytes() for shard in fill(folder)]
    shutil.rmtree(folder / "cache")
    assert [shard.values.read_bytes() + shard.side.read_bytes() for shard in fill(folder)] == before

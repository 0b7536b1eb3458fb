"""A limit on training examples: fixed ones, seen alike by everything that asks the index."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.index import ShardIndex
from pipeline.data.loader import TrainLoader
from pipeline.data.mixture import Mixture
from pipeline.data.pools import task_sizes

from .conftest import SIZES

LIMIT = 4  # gamma has 3 examples


def ids(index: ShardIndex, dataset: str, split: str = "train") -> list[str]:
    return [index.example_id(dataset, split, i) for i in range(index.n_examples(dataset, split))]


@pytest.fixture(scope="module")
def limited(shards: Path) -> ShardIndex:
    return ShardIndex(shards, train_per_dataset=LIMIT, max_duration_s=0.02)


def test_a_part_of_the_training_examples_is_left_and_all_others(index: ShardIndex, limited: ShardIndex) -> None:
    assert {name: limited.n_examples(name, "train") for name in SIZES} == {"alpha": 4, "beta": 4, "gamma": 3}
    for name in SIZES:
        whole, left = ids(index, name), ids(limited, name)
        assert left == [each for each in whole if each in set(left)]  # in shard order
        assert ids(limited, name, "val") == ids(index, name, "val")
    assert ids(limited, "beta") != ids(index, "beta")[:LIMIT]


def test_the_choice_is_fixed_and_smaller_ones_are_inside_larger_ones(shards: Path, limited: ShardIndex) -> None:
    again = ShardIndex(shards, ["beta"], train_per_dataset=LIMIT)
    assert ids(again, "beta") == ids(limited, "beta")
    assert set(ids(again, "beta")) < set(ids(ShardIndex(shards, train_per_dataset=7), "beta"))
    assert ids(limited, "beta") == ["clip.train.1#1", "clip.train.3#1", "clip.train.6#0", "clip.train.7#1"]


def test_everything_sees_the_chosen_ones_only(index: ShardIndex, limited: ShardIndex) -> None:
    for name in SIZES:
        number_of = {each: i for i, each in enumerate(ids(index, name))}
        numbers = [number_of[each] for each in ids(limited, name)]
        for i, whole in enumerate(numbers):
            a, b = limited.read(name, "train", i), index.read(name, "train", whole)
            assert (a.id, a.question, a.answer, a.task) == (b.id, b.question, b.answer, b.task)
            np.testing.assert_array_equal(a.audio, b.audio[: len(a.audio)])
            assert limited.read_qa(name, "train", i) == index.read_qa(name, "train", whole)
            assert limited.duration_s(name, "train", i) == min(index.duration_s(name, "train", whole), np.float32(0.02))
        tasks = index.tasks(name, "train")
        assert limited.tasks(name, "train") == [tasks[whole] for whole in numbers]
        assert task_sizes(limited)[name] == dict(sorted(Counter(tasks[whole] for whole in numbers).items()))
        clips = [each.split("#")[0] for each in ids(limited, name)]
        assert limited.n_clips(name, "train") == len(set(clips))
        distinct = list(dict.fromkeys(clips))
        assert limited.clip_numbers(name, "train").tolist() == [distinct.index(clip) for clip in clips]
        long = sum(index.duration_s(name, "train", whole) > 0.02 for whole in numbers)
        assert limited.n_cropped(name, "train") == long
        with pytest.raises(IndexError):
            limited.read(name, "train", len(numbers))


def test_training_draws_the_chosen_ones_whatever_the_seed(limited: ShardIndex) -> None:
    for seed in (0, 1):
        mixture = Mixture(["beta"], seed, {"beta": 1.0}, "deficit")
        loader = TrainLoader(
            limited, mixture, lambda _: {}, global_batch=4, micro_batch=2, comm_rank=0, world_size=1, seed=seed
        )
        drawn = Counter(i for _ in range(3) for batch in loader.next_step() for i in batch.example_ids)
        assert drawn == dict.fromkeys(ids(limited, "beta"), 3)
        assert loader.counters()["beta"]["epochs"] == 3


def test_the_digest_differs_where_the_examples_do(shards: Path, index: ShardIndex, limited: ShardIndex) -> None:
    other = ShardIndex(shards, train_per_dataset=LIMIT + 1)
    assert len({each.digests["beta"] for each in (index, limited, other)}) == 3
    assert limited.digests["gamma"] == index.digests["gamma"]  # it has no more
    assert limited.digests == ShardIndex(shards, train_per_dataset=LIMIT).digests
    all_of_them = ShardIndex(shards, train_per_dataset=13)
    assert all_of_them.digests == index.digests and ids(all_of_them, "beta") == ids(index, "beta")


def test_damaged_annotations_of_clips_left_out_do_not_show(damaged_index: ShardIndex) -> None:
    few, more = (ShardIndex(damaged_index.shards, train_per_dataset=n) for n in (LIMIT, 12))
    assert None not in few.tasks("beta", "train")
    tasks = more.tasks("beta", "train")
    assert [task is None for task in tasks] == [each.startswith("clip.train.5#") for each in ids(more, "beta")]
    assert 0 < tasks.count(None) < len(tasks)

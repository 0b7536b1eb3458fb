from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.index import ShardIndex
from pipeline.data.pools import DatasetPool, dataset_pools, examples_by_level, task_sizes
from pipeline.errors import ConfigError, ShardError

from .conftest import SIZES
from .shards import n_qa, task

LEVELS = (("presence",), ("emotion",), ("caption",))


def tasks_of(dataset: str) -> list[str]:
    return [task(clip, question) for clip in range(SIZES[dataset]) for question in range(n_qa(clip))]


def test_tasks_are_those_of_the_questions(index: ShardIndex) -> None:
    for name in SIZES:
        assert index.tasks(name, "train") == tasks_of(name)
        read = [index.read_qa(name, "train", i).task for i in range(index.n_examples(name, "train"))]
        assert index.tasks(name, "train") == read
    assert task_sizes(index)["alpha"] == {
        each: tasks_of("alpha").count(each) for each in sorted(set(tasks_of("alpha")))
    }


def test_a_damaged_annotation_has_no_task_and_no_level(damaged_index: ShardIndex) -> None:
    tasks = damaged_index.tasks("beta", "train")
    clips = damaged_index.clip_numbers("beta", "train")
    assert [each is None for each in tasks] == [clip == 5 for clip in clips]
    assert [each for each in tasks if each] == [e for e, clip in zip(tasks_of("beta"), clips, strict=True) if clip != 5]
    found = examples_by_level(damaged_index, LEVELS)
    kept = np.concatenate([found["beta", level] for level in range(3)])
    assert sorted(kept.tolist()) == [i for i, clip in enumerate(clips) if clip != 5]
    assert sum(task_sizes(damaged_index)["beta"].values()) == len(kept)


def test_clip_numbers_point_at_the_clips_of_the_examples(index: ShardIndex) -> None:
    for name, n in SIZES.items():
        assert index.n_clips(name, "train") == n
        ids = [index.example_id(name, "train", i) for i in range(index.n_examples(name, "train"))]
        assert [f"clip.train.{clip}" for clip in index.clip_numbers(name, "train")] == [i.split("#")[0] for i in ids]


def test_levels_hold_every_example_once_by_its_task(index: ShardIndex) -> None:
    levels = (("presence", "caption"), ("emotion",), ("nowhere seen",))
    found = examples_by_level(index, levels)
    assert {level for _, level in found} == {0, 1}
    for (name, level), numbers in found.items():
        assert [index.read_qa(name, "train", i).task in levels[level] for i in numbers] == [True] * len(numbers)
    for name in SIZES:
        whole = np.concatenate([numbers for (dataset, _), numbers in found.items() if dataset == name])
        assert sorted(whole.tolist()) == list(range(index.n_examples(name, "train")))


def test_a_task_without_a_level_is_refused(index: ShardIndex) -> None:
    with pytest.raises(ConfigError, match=r"(?s)no level.*caption"):
        examples_by_level(index, (("presence",), ("emotion", "captions")))


def test_a_part_of_a_dataset_comes_in_epochs_of_its_own_order(index: ShardIndex) -> None:
    numbers = np.array([1, 4, 5, 6, 9])
    pool = DatasetPool("beta@1", "beta", 5, numbers)
    drawn = [pool.at(3, position) for position in range(20)]
    assert {name for name, _ in drawn} == {"beta"}
    epochs = [tuple(i for _, i in drawn[start : start + 5]) for start in range(0, 20, 5)]
    assert all(sorted(epoch) == numbers.tolist() for epoch in epochs) and len(set(epochs)) > 1
    assert drawn != [DatasetPool("beta@2", "beta", 5, numbers).at(3, position) for position in range(20)]
    assert pool.consumed(3, 7) == {"beta": 7}


def test_digests_tell_parts_apart_and_whole_datasets_have_none(index: ShardIndex) -> None:
    one = DatasetPool("u", "beta", 2, np.array([1, 2]))
    assert one.digest == DatasetPool("u", "beta", 2, np.array([1, 2], dtype=np.int32)).digest
    assert len({one.digest, DatasetPool("u", "beta", 2, np.array([1, 3])).digest}) == 2
    assert one.digest != DatasetPool("u", "alpha", 2, np.array([1, 2])).digest
    assert [pool.digest for pool in dataset_pools(index, ["alpha"], "train").values()] == [None]
    with pytest.raises(ShardError, match="delta"):
        dataset_pools(index, ["delta"], "train")

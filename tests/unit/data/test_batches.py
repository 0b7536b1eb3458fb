from __future__ import annotations

import pytest

from pipeline.data.batches import EvalBatches, chosen_batches, eval_batches, n_micro_batches
from pipeline.data.index import ShardIndex
from pipeline.errors import ShardError, TrainingError
from pipeline.types import Example, MicroBatch

from .conftest import SIZES


def encode(examples: list[Example]) -> dict[str, int]:
    return {"n": len(examples)}


def shares(index: ShardIndex, world_size: int, per_dataset: int | None = None, **options: object) -> list[EvalBatches]:
    ranks = range(world_size)
    return [eval_batches(index, encode, "val", per_dataset, 2, rank, world_size, 0, **options) for rank in ranks]  # type: ignore[arg-type]


def counted(batches: list[MicroBatch]) -> list[tuple[str, str]]:
    return sorted((batch.dataset, i) for batch in batches if batch.counted for i in batch.example_ids)


@pytest.mark.parametrize("per_dataset", [None, 1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 20])
def test_ranks_cover_the_probe_set_once_in_equal_steps(
    index: ShardIndex, world_size: int, per_dataset: int | None
) -> None:
    dealt = [list(share) for share in shares(index, world_size, per_dataset)]
    assert len({len(batches) for batches in dealt}) == 1
    assert [len(share) for share in shares(index, world_size, per_dataset)] == [len(batches) for batches in dealt]
    union = counted([batch for batches in dealt for batch in batches])
    whole = counted(list(shares(index, 1, per_dataset)[0]))
    assert union == whole and len(set(union)) == len(union)
    for name in SIZES:
        n = index.n_examples(name, "val")
        assert sum(dataset == name for dataset, _ in union) == (n if per_dataset is None else min(n, per_dataset))
    fillers = [batch for batches in dealt for batch in batches if not batch.counted]
    assert len(fillers) < world_size and all(len(batch.example_ids) == 1 for batch in fillers)


def test_the_set_is_fixed_and_smaller_sets_are_inside_larger_ones(index: ShardIndex) -> None:
    share = shares(index, 1, 3)[0]
    assert list(share) == list(share) == list(shares(index, 1, 3)[0])
    assert set(counted(list(shares(index, 1, 2)[0]))) < set(counted(list(share)))
    other_seed = eval_batches(index, encode, "val", 3, 2, 0, 1, seed=1)
    assert counted(list(other_seed)) != counted(list(share))


def test_cached_batches_are_encoded_once(index: ShardIndex) -> None:
    calls = []

    def counting(examples: list[Example]) -> dict[str, int]:
        calls.append(len(examples))
        return {}

    batches = eval_batches(index, counting, "val", None, 2, 0, 1, 0, cache=True)
    next(iter(batches))
    first = list(batches)
    n_calls = len(calls)
    assert list(batches) == first and len(calls) == n_calls == len(first) + 1
    lazy = eval_batches(index, counting, "val", None, 2, 0, 1, 0)
    assert list(lazy) == list(lazy) and len(calls) == n_calls + 2 * len(first)


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_bad_samples_are_left_out_and_told(index: ShardIndex, damaged_index: ShardIndex, world_size: int) -> None:
    # gamma's only clip of this split is bad: its whole micro-batch becomes a filler.
    told: list[tuple[str, str]] = []
    dealt = [list(s) for s in shares(damaged_index, world_size, on_bad=lambda name, i, _: told.append((name, i)))]
    assert len({len(batches) for batches in dealt}) == 1
    bad = [("alpha", "clip.val.0#0"), ("gamma", "clip.val.0#0")]
    assert sorted(told) == bad
    union = counted([batch for batches in dealt for batch in batches])
    assert sorted(union + bad) == counted(list(shares(index, 1)[0]))


def test_nothing_to_evaluate_is_an_error(index: ShardIndex, damaged_index: ShardIndex) -> None:
    with pytest.raises(ShardError, match=r"(?s)no examples in this split.*gamma.*test"):
        eval_batches(index, encode, "test", None, 2, 0, 1, 0, datasets=["gamma"])
    with pytest.raises(ShardError, match="nothing to evaluate"):
        eval_batches(index, encode, "test", None, 2, 0, 1, 0)
    with pytest.raises(TrainingError, match="not one example"):
        list(eval_batches(damaged_index, encode, "val", None, 2, 0, 1, 0, datasets=["gamma"]))


def numbered(index: ShardIndex, chosen: dict, world_size: int = 1, encode=encode) -> list[list[MicroBatch]]:
    ranks = range(world_size)
    return [list(chosen_batches(index, encode, "val", chosen, 2, rank, world_size, 0)) for rank in ranks]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_chosen_micro_batches_are_those_of_the_fixed_set(index: ShardIndex, world_size: int) -> None:
    whole = {name: [b for b in shares(index, 1)[0] if b.dataset == name] for name in SIZES}
    assert {name: n_micro_batches(index, name, "val", 2) for name in SIZES} == {n: len(b) for n, b in whole.items()}
    for part in (0, 1):
        chosen = {name: range(part, len(batches), 2) for name, batches in whole.items()}
        got = counted([batch for share in numbered(index, chosen, world_size) for batch in share])
        wanted = counted([batches[b] for name, batches in whole.items() for b in chosen[name]])
        assert got == wanted


def test_datasets_without_a_chosen_micro_batch_only_lend_fillers(index: ShardIndex) -> None:
    first, *others = SIZES
    dealt = numbered(index, {first: [0], **dict.fromkeys(others, ())}, world_size=3)
    assert [len(share) for share in dealt] == [1, 1, 1]
    assert [batch.counted for share in dealt for batch in share] == [True, False, False]
    with pytest.raises(ShardError, match="nothing"):
        numbered(index, dict.fromkeys(SIZES, ()))
    with pytest.raises(IndexError):
        numbered(index, {first: [n_micro_batches(index, first, "val", 2)]})

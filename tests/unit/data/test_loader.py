from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.index import ShardIndex
from pipeline.data.loader import TrainLoader, slots_per_step
from pipeline.data.mixture import Mixture
from pipeline.data.order import example_at
from pipeline.errors import CheckpointError, ShardError, TrainingError, WorldSizeError
from pipeline.types import Example, MicroBatch

WEIGHTS = {"alpha": 3.0, "beta": 2.0, "gamma": 1.0}
GLOBAL_BATCH, MICRO_BATCH = 8, 2

Micro = tuple[str, tuple[str, ...]]


def encode(examples: list[Example]) -> dict[str, Any]:
    return {"first_sample": [float(example.audio[0]) for example in examples]}


def make_loader(index: ShardIndex, rank: int = 0, world_size: int = 1, workers: int = 0, **changes: Any) -> TrainLoader:
    seed = changes.pop("seed", 0)
    weights = changes.pop("weights", WEIGHTS)
    datasets = changes.pop("datasets", list(WEIGHTS))
    mixture = Mixture(datasets, seed, weights, changes.pop("draw", "deficit"), changes.pop("min_share", 0.0))
    options = {"global_batch": GLOBAL_BATCH, "micro_batch": MICRO_BATCH, **changes}
    return TrainLoader(
        index, mixture, encode, comm_rank=rank, world_size=world_size, seed=seed, workers=workers, **options
    )


class World:
    """All ranks of a run in one process."""

    def __init__(self, loaders: list[TrainLoader]) -> None:
        self.loaders = loaders

    def step(self) -> list[Micro]:
        """The micro-batches of one global step in slot order."""
        dealt = [loader.next_step() for loader in self.loaders]
        assert len({len(batches) for batches in dealt}) == 1
        slots = [batch for accumulation in zip(*dealt, strict=True) for batch in accumulation]
        return [(batch.dataset, batch.example_ids) for batch in slots]

    def steps(self, n: int) -> list[list[Micro]]:
        return [self.step() for _ in range(n)]

    def set_weights(self, weights: dict[str, float]) -> None:
        for loader in self.loaders:
            loader.set_weights(weights)

    def state(self) -> dict[str, Any]:
        states = [loader.state_dict() for loader in self.loaders]
        assert all(state == states[0] for state in states)
        return json.loads(json.dumps(states[0]))


@contextmanager
def world(index: ShardIndex, world_size: int = 1, workers: int = 0, **changes: Any) -> Iterator[World]:
    with ExitStack() as stack:
        loaders = [make_loader(index, rank, world_size, workers, **changes) for rank in range(world_size)]
        for loader in loaders:
            stack.callback(loader.close)
        yield World(loaders)


@given(
    seed=st.integers(0, 2**32),
    world_size=st.sampled_from([1, 2, 4]),
    workers=st.integers(0, 2),
    weights=st.tuples(*[st.floats(0.01, 1.0)] * 3),
)
@settings(max_examples=12, deadline=None)
def test_any_world_and_workers_give_the_plan(
    index: ShardIndex, seed: int, world_size: int, workers: int, weights: tuple[float, ...]
) -> None:
    named = dict(zip(WEIGHTS, weights, strict=True))
    planned, position = [], dict.fromkeys(WEIGHTS, 0)
    mixture = Mixture(list(WEIGHTS), seed, named)
    for _ in range(6):
        step = []
        for name in mixture.draw_step(GLOBAL_BATCH // MICRO_BATCH):
            n = index.n_examples(name, "train")
            numbers = [example_at(seed, name, n, position[name] + k) for k in range(MICRO_BATCH)]
            position[name] += MICRO_BATCH
            step.append((name, tuple(index.example_id(name, "train", i) for i in numbers)))
        planned.append(step)
    with world(index, world_size, workers, seed=seed, weights=named) as ranks:
        assert ranks.steps(6) == planned
        assert {name: c["examples"] for name, c in ranks.loaders[0].counters().items()} == position


def test_every_example_comes_once_per_epoch(index: ShardIndex) -> None:
    n = index.n_examples("alpha", "train")
    with world(index, 2, weights={"alpha": 1.0}) as ranks:
        ids = [i for step in ranks.steps(n) for _, batch in step for i in batch]
    assert len(ids) == n * GLOBAL_BATCH
    epochs = [ids[start : start + n] for start in range(0, len(ids), n)]
    assert all(len(set(epoch)) == n for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_micro_batch_carries_what_its_examples_hold(index: ShardIndex) -> None:
    loader = make_loader(index)
    batch = loader.next_step()[0]
    numbers = {index.example_id(batch.dataset, "train", i): i for i in range(index.n_examples(batch.dataset, "train"))}
    examples = [index.read(batch.dataset, "train", numbers[i]) for i in batch.example_ids]
    assert isinstance(batch, MicroBatch) and batch.counted
    assert batch.inputs == encode(examples)
    assert batch.audio_s == pytest.approx(sum(len(e.audio) / e.sample_rate_hz for e in examples))


@pytest.mark.parametrize(("workers", "before", "after"), [(0, 2, 1), (2, 1, 4), (1, 4, 2)])
def test_resume_at_every_step_equals_the_uninterrupted_run(
    index: ShardIndex, workers: int, before: int, after: int
) -> None:
    total = 7
    with world(index, 1) as ranks:
        uninterrupted = ranks.steps(total)
    for stop in range(total):
        with world(index, before, workers) as first:
            head = first.steps(stop)
            state = first.state()
        # The weights of the resumed run's recipe do not matter: those of the checkpoint go on.
        with world(index, after, workers, weights={"gamma": 1.0}) as second:
            second.steps(1)
            for loader in second.loaders:
                loader.load_state_dict(state)
            assert head + second.steps(total - stop) == uninterrupted
            assert second.loaders[0].step == total


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_new_weights_act_on_exactly_the_next_step(index: ShardIndex, workers: int, world_size: int) -> None:
    with world(index) as ranks:
        reference = ranks.steps(3)
        ranks.set_weights({"gamma": 1.0})
        reference += ranks.steps(2)
        ranks.set_weights(WEIGHTS)
        reference += ranks.steps(2)
    with world(index, world_size, workers, weights={"beta": 1.0}) as ranks:
        for loader in ranks.loaders:
            loader.mixture.set_weights(WEIGHTS)
        steps = ranks.steps(3)
        ranks.set_weights({"gamma": 1.0})
        steps += ranks.steps(2)
        for loader in ranks.loaders:  # not through the loader: prefetched steps are dropped all the same
            loader.mixture.set_weights(WEIGHTS)
        steps += ranks.steps(2)
    assert steps == reference
    assert all(name == "gamma" for step in steps[3:5] for name, _ in step)
    assert any(name != "gamma" for name, _ in steps[2])
    assert any(name != "gamma" for name, _ in steps[5])


def test_prefetched_steps_are_not_in_the_state(index: ShardIndex) -> None:
    with world(index, 1, 2) as ahead, world(index, 1, 0) as plain:
        for _ in range(4):
            ahead.step(), plain.step()
            assert ahead.state() == plain.state()


BAD = {"alpha": ["clip.train.1#0", "clip.train.1#1"], "beta": [f"clip.train.{k}#{q}" for k in (3, 5) for q in (0, 1)]}


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_replaced_the_same_way_on_any_world(damaged_index: ShardIndex, workers: int) -> None:
    met: list[tuple[str, str, str]] = []
    with world(damaged_index, on_bad=lambda *bad: met.append(bad)) as ranks:
        reference = ranks.steps(12)
        alone = ranks.loaders[0].counters()
        planned_positions = ranks.loaders[0].mixture.positions
    assert {(name, i) for name, i, _ in met} == {(name, i) for name, ids in BAD.items() for i in ids}
    assert all(reason.startswith(("unreadable", "bad_annotation")) for _, _, reason in met)
    used = {(name, i) for step in reference for name, ids in step for i in ids}
    assert not used & {(name, i) for name, ids in BAD.items() for i in ids}
    assert all(len(ids) == MICRO_BATCH for step in reference for _, ids in step)
    for world_size in (2, 4):
        with world(damaged_index, world_size, workers) as ranks:
            assert ranks.steps(12) == reference
            assert ranks.loaders[0].mixture.positions == planned_positions
            for name in WEIGHTS:
                assert sum(loader.counters()[name]["bad"] for loader in ranks.loaders) == alone[name]["bad"]
    assert alone["beta"]["bad"] >= len(BAD["beta"]) and alone["gamma"]["bad"] == 0


def test_a_replacement_is_the_next_example_behind_the_micro_batch(index: ShardIndex, damaged_index: ShardIndex) -> None:
    with world(index) as whole, world(damaged_index) as damaged:
        pairs = zip(chain(*whole.steps(10)), chain(*damaged.steps(10)), strict=True)
        n, seen = index.n_examples("alpha", "train"), 0
        for (name, planned), (_, got) in pairs:
            if name != "alpha":
                continue
            for place, (want, have) in enumerate(zip(planned, got, strict=True)):
                if want in BAD["alpha"]:
                    at = seen + MICRO_BATCH
                    following = (index.example_id(name, "train", example_at(0, name, n, at + k)) for k in range(n))
                    good = [i for i in following if i not in BAD["alpha"]]
                    assert have == good[0] or (place and have == good[1])
                else:
                    assert have == want
            seen += MICRO_BATCH


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_in_a_row_stop_the_run(damaged_index: ShardIndex, workers: int) -> None:
    with world(damaged_index, 1, workers, weights={"beta": 1.0}, max_consecutive_failures=1) as ranks:
        with pytest.raises(TrainingError, match=r"(?s)bad samples in a row.*beta.*clip\.train"):
            ranks.steps(5)
        state = ranks.state()
        with pytest.raises(TrainingError):
            ranks.step()
        assert ranks.state() == state


def test_bad_samples_with_good_ones_between_are_not_in_a_row(damaged_index: ShardIndex) -> None:
    n = damaged_index.n_examples("alpha", "train")
    seed = 3
    order = [damaged_index.example_id("alpha", "train", example_at(seed, "alpha", n, k)) for k in range(n + 2)]
    bad = [k for k, name in enumerate(order) if name in BAD["alpha"]]
    assert len(bad) == 2, "choose a seed whose first epoch has two bad samples and good stand-ins behind it"
    options = {"weights": {"alpha": 1.0}, "global_batch": n, "micro_batch": n, "max_consecutive_failures": 2}
    with world(damaged_index, seed=seed, **options) as ranks:
        assert len(ranks.step()[0][1]) == n
        assert ranks.loaders[0].counters()["alpha"]["bad"] == 2


def test_an_error_in_encode_is_not_taken_for_a_bad_sample(index: ShardIndex) -> None:
    def broken(examples: list[Example]) -> dict[str, Any]:
        raise ValueError("a bug")

    for workers in (0, 1):
        loader = make_loader(index, workers=workers)
        loader.encode = broken
        with pytest.raises(ValueError, match="a bug"):
            loader.next_step()
        assert loader.step == 0
        loader.close()


@pytest.mark.parametrize("world_size", [3, 5, 8])
def test_world_size_that_does_not_divide_is_refused(index: ShardIndex, world_size: int) -> None:
    with pytest.raises(WorldSizeError, match=rf"(?s)4 micro-batches.*{world_size} ranks.*one of 1, 2, 4 ranks"):
        make_loader(index, 0, world_size)


@pytest.mark.parametrize(("global_batch", "micro_batch"), [(7, 2), (0, 2), (4, 0), (1, 2)])
def test_batch_of_broken_micro_batches_is_refused(global_batch: int, micro_batch: int) -> None:
    with pytest.raises(WorldSizeError, match=rf"(?s)global_batch: {global_batch}.*micro_batch: {micro_batch}"):
        slots_per_step(global_batch, micro_batch, 1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 1}, "set the seed"),
        ({"global_batch": 4}, "global_batch of the checkpoint"),
        ({"micro_batch": 4}, "micro_batch of the checkpoint"),
        ({"split": "val"}, "split"),
        ({"bucket": 3}, "data.bucket of the checkpoint"),
        ({"min_share": 0.5}, "same min_share"),
        ({"datasets": ["alpha", "beta"], "weights": {"alpha": 1.0}}, "gamma"),
    ],
)
def test_state_of_another_run_is_refused(index: ShardIndex, changes: dict[str, Any], says: str) -> None:
    state = make_loader(index).state_dict()
    other = make_loader(index, **changes)
    with pytest.raises(CheckpointError, match=f"(?s){says}"):
        other.load_state_dict(state)


def test_state_of_other_data_or_version_is_refused(index: ShardIndex) -> None:
    loader = make_loader(index)
    state = loader.state_dict()
    with pytest.raises(CheckpointError, match=r"(?s)datasets: beta.*point the run at the shards"):
        loader.load_state_dict({**state, "digests": {**state["digests"], "beta": "0" * 64}})
    with pytest.raises(CheckpointError, match="another version"):
        loader.load_state_dict({**state, "version": 0})


def test_mixture_of_unknown_datasets_is_refused(index: ShardIndex) -> None:
    with pytest.raises(ShardError, match="delta"):
        make_loader(index, datasets=["alpha", "delta"], weights={"alpha": 1.0})

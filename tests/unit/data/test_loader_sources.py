"""The loader over units and clusters: what is drawn, and the same promises as for whole datasets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from pipeline.cli.sampling import build_source, needs_clusters
from pipeline.config import Recipe, parse_recipe
from pipeline.data.clusters import CLUSTERS as CLUSTER_POOL
from pipeline.data.index import ShardIndex
from pipeline.data.loader import TrainLoader
from pipeline.data.pools import task_sizes
from pipeline.errors import CheckpointError
from pipeline.schedule.regimes import clusters as ads_plan
from pipeline.schedule.stages import StagePlan
from pipeline.schedule.tasks import by_level, by_level_then_clusters
from pipeline.types import MIXED, MicroBatch

from .conftest import SIZES
from .test_clusters import CLUSTERS, by_the_definition
from .test_loader import encode, make_loader

GLOBAL_BATCH, MICRO_BATCH = 12, 2
LEVELS = [["presence"], ["emotion"], ["caption"]]

Ids = list[tuple[str, str]]  # dataset and example id, slot after slot


def make_recipe(accumulate: bool = True) -> Recipe:
    tree = {
        "arm": "x", "out": "o", "model": {"path": "m"}, "data": {"shards": "s"}, "train": {"max_steps": 10},
        "schedule": {"tpc": {"levels": LEVELS, "accumulate": accumulate}, "ads": {"clusters": 4}},
    }  # fmt: skip
    return parse_recipe(tree, source="test")


def plan_of(kind: str, index: ShardIndex, recipe: Recipe) -> StagePlan:
    schedule, tasks = recipe.schedule, task_sizes(index)
    sizes = {name: index.n_examples(name, "train") for name in index.datasets}
    if kind == "ads":
        return ads_plan(schedule, sizes)
    return by_level(schedule, tasks) if kind == "tpc" else by_level_then_clusters(schedule, tasks, sizes)


class Run:
    """All ranks of a run over the stages of `kind` in one process."""

    def __init__(
        self, kind: str, index: ShardIndex, world_size: int = 1, workers: int = 0, *, accumulate: bool = True, **o: Any
    ) -> None:
        recipe = make_recipe(accumulate)
        self.index, self.plan = index, plan_of(kind, index, recipe)
        options = {"seed": 0, "global_batch": GLOBAL_BATCH, "micro_batch": MICRO_BATCH, **o}
        clusters = options.pop("clusters", CLUSTERS)
        weights = self.weights(0)
        self.loaders = []
        for rank in range(world_size):
            source, pools = build_source(recipe, index, self.plan, weights, options["seed"], clusters)
            self.loaders.append(
                TrainLoader(
                    index,
                    source,
                    encode,
                    comm_rank=rank,
                    world_size=world_size,
                    workers=workers,
                    pools=pools,
                    **options,
                )
            )

    def weights(self, stage: int) -> dict[str, float]:
        """As a controller gives them: every name of the plan."""
        return {name: self.plan.stages[stage].weights.get(name, 0.0) for name in self.plan.names}

    def enter(self, stage: int) -> None:
        for loader in self.loaders:
            loader.set_weights(self.weights(stage))

    def batches(self) -> list[MicroBatch]:
        dealt = [loader.next_step() for loader in self.loaders]
        assert len({len(batches) for batches in dealt}) == 1
        return [batch for accumulation in zip(*dealt, strict=True) for batch in accumulation]

    def step(self) -> Ids:
        return [pair for batch in self.batches() for pair in pairs(batch)]

    def state(self) -> dict[str, Any]:
        states = [loader.state_dict() for loader in self.loaders]
        assert all(state == states[0] for state in states)
        return json.loads(json.dumps(states[0]))

    def load(self, state: dict[str, Any]) -> None:
        for loader in self.loaders:
            loader.load_state_dict(state)

    def close(self) -> None:
        for loader in self.loaders:
            loader.close()


def pairs(batch: MicroBatch) -> Ids:
    datasets = batch.datasets or (batch.dataset,) * len(batch.example_ids)
    return list(zip(datasets, batch.example_ids, strict=True))


def tasks_by_id(index: ShardIndex) -> dict[tuple[str, str], str]:
    return {
        (name, index.example_id(name, "train", i)): index.read_qa(name, "train", i).task
        for name in index.datasets
        for i in range(index.n_examples(name, "train"))
    }


@pytest.mark.parametrize("accumulate", [True, False])
def test_a_stage_of_tpc_holds_the_tasks_of_its_levels_and_no_other(index: ShardIndex, accumulate: bool) -> None:
    run, task_of = Run("tpc", index, accumulate=accumulate), tasks_by_id(index)
    assert len(run.plan.stages) == len(LEVELS)
    for stage in range(len(LEVELS)):
        run.enter(stage)
        drawn = [pair for _ in range(40) for pair in run.step()]
        allowed = [task for level in LEVELS[0 if accumulate else stage : stage + 1] for task in level]
        assert set(drawn) == {pair for pair, task in task_of.items() if task in allowed}


def test_micro_batches_of_units_are_of_one_real_dataset(index: ShardIndex) -> None:
    run = Run("tpc", index)
    run.enter(2)
    drawn = [batch for _ in range(5) for batch in run.batches()]
    assert {batch.dataset for batch in drawn} == set(SIZES) and all(batch.datasets is None for batch in drawn)
    of_datasets, of_units = run.loaders[0].counters(), run.loaders[0].pool_counters()
    served = Counter(name for batch in drawn for name, _ in pairs(batch))
    assert {name: c["examples"] for name, c in of_datasets.items()} == served
    for name, c in of_datasets.items():
        assert c["epochs"] == pytest.approx(served[name] / index.n_examples(name, "train"))
        assert c["examples"] == sum(u["examples"] for unit, u in of_units.items() if unit.startswith(f"{name}@"))


def test_the_examples_of_a_unit_come_once_per_epoch(index: ShardIndex) -> None:
    run, task_of = Run("tpc", index), tasks_by_id(index)
    drawn = [pair for _ in range(30) for pair in run.step()]
    for name in SIZES:
        own = [pair for pair in drawn if pair[0] == name]
        n = sum(task == "presence" for (dataset, _), task in task_of.items() if dataset == name)
        epochs = [own[start : start + n] for start in range(0, len(own) - n + 1, n)]
        assert epochs and all(len(set(epoch)) == n for epoch in epochs)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_ads_batches_are_the_definition_on_any_world(index: ShardIndex, world_size: int, workers: int) -> None:
    run = Run("ads", index, world_size, workers, seed=4)
    drawn = [pair for _ in range(6) for pair in run.step()]
    plain = islice(by_the_definition(index, CLUSTERS, seed=4), len(drawn))
    assert drawn == [(name, index.example_id(name, "train", i)) for name, i in plain]
    counters = run.loaders[0].counters()
    served = Counter(name for name, _ in drawn)
    assert {name: c["examples"] for name, c in counters.items()} == {name: served[name] for name in SIZES}
    assert run.loaders[0].pool_counters()[CLUSTER_POOL]["examples"] == len(drawn)
    run.close()


def test_micro_batches_of_clusters_say_whose_examples_they_hold(index: ShardIndex) -> None:
    drawn = [batch for _ in range(1) for batch in Run("ads", index, seed=1, micro_batch=3).batches()]
    drawn += [batch for _ in range(4) for batch in Run("ads", index, seed=2, micro_batch=2).batches()]
    mixed = [batch for batch in drawn if batch.dataset == MIXED]
    assert mixed and len(mixed) < len(drawn)
    for batch in drawn:
        if batch.dataset == MIXED:
            assert batch.datasets is not None and len(set(batch.datasets)) > 1
            assert len(batch.datasets) == len(batch.example_ids) == len(batch.inputs["first_sample"])
        else:
            assert batch.datasets is None and batch.dataset in SIZES
    alone = Run("ads", index, micro_batch=1).batches()
    assert all(batch.datasets is None and batch.dataset in SIZES for batch in alone)


def walk(run: Run, steps: range, done: Callable[[int], None] | None = None) -> list[Ids]:
    """Steps of a run that changes its stage before steps 3, 5 and 8; `tpc_ads` goes over to clusters at 8."""
    taken = []
    for number in steps:
        if number in (3, 5, 8):
            run.enter(min((3, 5, 8).index(number) + 1, len(run.plan.stages) - 1))
        taken.append(run.step())
        if done:
            done(number)
    return taken


@pytest.mark.parametrize(("workers", "before", "after"), [(0, 2, 3), (2, 3, 1), (1, 1, 2)])
@pytest.mark.parametrize("kind", ["tpc", "ads", "tpc_ads"])
def test_resume_anywhere_equals_the_uninterrupted_run(
    index: ShardIndex, kind: str, workers: int, before: int, after: int
) -> None:
    total = 11
    uninterrupted = walk(Run(kind, index), range(total))
    first, states = Run(kind, index, before, workers), []
    assert walk(first, range(total), lambda _: states.append(first.state())) == uninterrupted
    for number, state in enumerate(states):
        second = Run(kind, index, after, workers)
        second.step()
        second.load(state)
        assert second.state() == state
        assert walk(second, range(number + 1, total)) == uninterrupted[number + 1 :]
        second.close()
    first.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_switch_acts_on_the_very_next_step_and_loses_nothing(index: ShardIndex, workers: int) -> None:
    units, clusters = Run("tpc", index), Run("ads", index)
    both = Run("tpc_ads", index, 2, workers)
    assert needs_clusters(both.plan) and not needs_clusters(units.plan)
    assert [both.step() for _ in range(3)] == [units.step() for _ in range(3)]
    both.enter(3)
    assert [both.step() for _ in range(3)] == [clusters.step() for _ in range(3)]
    both.enter(1)
    units.enter(1)
    assert [both.step() for _ in range(2)] == [units.step() for _ in range(2)]
    consumed = {name: c["examples"] for name, c in both.loaders[0].counters().items()}
    apart = Counter({name: c["examples"] for name, c in units.loaders[0].counters().items()})
    apart.update({name: c["examples"] for name, c in clusters.loaders[0].counters().items()})
    assert consumed == apart
    both.close()


@pytest.mark.parametrize("kind", ["ads", "tpc_ads"])
def test_prefetch_does_not_show_in_the_state(index: ShardIndex, kind: str) -> None:
    ahead, plain, seen = Run(kind, index, 1, 2), Run(kind, index), []
    walk(plain, range(10), lambda _: seen.append(plain.state()))
    walk(ahead, range(10), lambda number: seen[number] == ahead.state() or pytest.fail(f"step {number}"))
    ahead.close()


@pytest.mark.parametrize("kind", ["tpc", "ads"])
def test_bad_samples_are_replaced_the_same_way_on_any_world(damaged_index: ShardIndex, kind: str) -> None:
    runs = [Run(kind, damaged_index, world_size) for world_size in (1, 2, 3)]
    reference, *others = [[run.step() for _ in range(8)] for run in runs]
    assert all(other == reference for other in others)
    bad = {("alpha", "clip.train.1#0"), ("beta", "clip.train.3#0"), ("beta", "clip.train.5#0")}
    drawn = {pair for step in reference for pair in step}
    assert not drawn & bad and all(len(step) == GLOBAL_BATCH for step in reference)
    counts = [sum(sum(c["bad"] for c in loader.counters().values()) for loader in run.loaders) for run in runs]
    assert counts[0] > 0 and len(set(counts)) == 1


def test_a_state_of_other_units_or_clusters_is_refused(index: ShardIndex) -> None:
    other = CLUSTERS.__class__({**CLUSTERS.labels, "gamma": CLUSTERS.labels["gamma"][::-1].copy()}, {})
    with pytest.raises(CheckpointError, match=r"(?s)other units or clusters.*\(clusters\).*start a new run"):
        Run("ads", index, clusters=other).load(Run("ads", index).state())
    with pytest.raises(CheckpointError, match="other units or clusters"):
        Run("tpc", index).load(Run("ads", index).state())
    with pytest.raises(CheckpointError, match="seed"):
        Run("ads", index, seed=1).load(Run("ads", index).state())


def test_the_state_over_whole_datasets_is_that_of_older_checkpoints(index: ShardIndex) -> None:
    loader = make_loader(index)
    loader.next_step()
    state = loader.state_dict()
    assert set(state) == {"version", "seed", "split", "global_batch", "micro_batch", "digests", "step", "mixture"}
    assert set(state["mixture"]) == {"version", "seed", "draw", "slot", "weights", "credits", "positions"}
    assert state["version"] == state["mixture"]["version"] == 1

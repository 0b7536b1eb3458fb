"""The stages of every regime whose parts are datasets: pure functions of a recipe and what is known of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate, pairwise

from pipeline.affinity.partitions import Groups, explicit_partition, reorder_groups
from pipeline.config.schedule import MasteringConfig, ScheduleConfig
from pipeline.errors import ConfigError, did_you_mean
from pipeline.schedule.stages import Stage, StagePlan, growing_stages, pool_weights

ONE_STAGE = {
    "mix_all": "",
    "gram": "weights follow the windows' corrected Gram matrix",
    "pike": "weights follow the windows' gradient norms and noise",
}


def everything(schedule: ScheduleConfig, sizes: Mapping[str, int]) -> StagePlan:
    """All datasets from the first step: mix_all, and the regimes that only move weights."""
    names = tuple(sorted(sizes))
    stage = Stage(names, names, pool_weights(schedule.weights, names, sizes))
    return StagePlan(schedule.regime, (stage,), note=ONE_STAGE.get(schedule.regime, ""))


def clusters(schedule: ScheduleConfig, sizes: Mapping[str, int]) -> StagePlan:
    """ads: one stage over all datasets, whose batches go round the clusters of their clips; weights are not used."""
    stage = replace(everything(schedule, sizes).stages[0], source="clusters")
    return StagePlan("ads", (stage,), note=f"batches go round {schedule.ads.clusters} clusters, or fewer")


def one_by_one(schedule: ScheduleConfig, sizes: Mapping[str, int]) -> StagePlan:
    """individual and sequential: one dataset after another; the budget is shared out by the weights of all.

    An `individual` stage starts from the base weights and takes its whole share. A `sequential` one goes on from where
    the last one stopped, and ends early when it is flat.
    """
    individual = schedule.regime == "individual"
    names = sorted(sizes) if individual else _sequence(schedule, sizes)
    shares = pool_weights(schedule.weights, names, sizes)
    ends = accumulate(shares[name] for name in names)
    stages = tuple(
        Stage((name,), (name,), {name: 1.0}, ends_at=end, by_plateau=not individual, reset=individual)
        for name, end in zip(names, ends, strict=True)
    )
    note = "each dataset from the base weights" if individual else "no replay of earlier datasets"
    return StagePlan(schedule.regime, stages, note=note)


def progressive(
    schedule: ScheduleConfig, groups: Groups, sizes: Mapping[str, int], version: str | None, note: str
) -> StagePlan:
    """gst and gst_adaptive: groups enter one after the other and stay."""
    return StagePlan(schedule.regime, growing_stages(groups, schedule.weights, sizes), version, note)


def strict_cycle(
    schedule: ScheduleConfig, groups: Groups, sizes: Mapping[str, int], version: str | None, note: str
) -> StagePlan:
    """One group at a time, round and round; a visit ends when it is flat or has taken its share of the budget."""
    everyone = pool_weights(schedule.weights, sorted(sizes), sizes)
    stages = tuple(
        Stage(
            tuple(group),
            tuple(group),
            pool_weights(schedule.weights, group, sizes),
            visit_share=sum(everyone[name] for name in group) / schedule.cycle.rounds,
        )
        for group in groups
    )
    return StagePlan("gst_strict_cycle", stages, version, note, cycle=len(stages) > 1)


def mastering(
    schedule: ScheduleConfig,
    sizes: Mapping[str, int],
    groups: Groups | None = None,
    version: str | None = None,
    note: str = "",
) -> StagePlan:
    """mastering_rate: one stage; `requires` is a chain of `groups`, or what the recipe says of datasets."""
    if groups is None:
        requires = _stated_requirements(schedule.mastering, sizes)
        note = "prerequisites stated in the recipe" if schedule.mastering.requires else "no prerequisites"
    else:
        requires = {name: tuple(before) for before, group in pairwise(groups) for name in group}
    stage = everything(schedule, sizes).stages[0]
    return StagePlan("mastering_rate", (stage,), version, note, requires=requires)


def _sequence(schedule: ScheduleConfig, sizes: Mapping[str, int]) -> list[str]:
    """The order of datasets one by one: as the recipe lists them, or by name, reversed or shuffled."""
    if schedule.grouping == "explicit":
        groups = explicit_partition(schedule.explicit or (), sorted(sizes))
    else:
        groups = reorder_groups([[name] for name in sorted(sizes)], schedule.order or "progressive", schedule.seed)
    return [name for group in groups for name in group]


def _stated_requirements(config: MasteringConfig, sizes: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    for key, names in (("requires", _mentioned(config.requires)), ("targets", sorted(config.targets))):
        for name in names:
            if name not in sizes:
                raise ConfigError(
                    "an unknown dataset",
                    where={"key": f"schedule.mastering.{key}"},
                    got=name,
                    expected=", ".join(sorted(sizes)),
                    hint=did_you_mean(name, sizes),
                )
    try:
        TopologicalSorter(config.requires).prepare()
    except CycleError as error:
        raise ConfigError(
            "datasets require each other in a circle",
            where={"key": "schedule.mastering.requires"},
            got=" -> ".join(error.args[1]),
        ) from None
    return dict(config.requires)


def _mentioned(requires: Mapping[str, Sequence[str]]) -> list[str]:
    return sorted({name for dataset, before in requires.items() for name in (dataset, *before)})

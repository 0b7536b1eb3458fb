"""From a recipe and what is known of the datasets to stages: which pool, in which order, with which weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.affinity.grouping import domain_partition, explicit_partition, random_partition, reorder_groups
from pipeline.affinity.versions import AffinityVersion, load_version
from pipeline.config.schedule import ScheduleConfig, WeightsConfig
from pipeline.config.schema import Recipe
from pipeline.data.mixture import proportional_weights, temperature_weights, uniform_weights
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Stage:
    """One stage: `entering` is the group that joins, `pool` all datasets trained on, `weights` sum to 1."""

    entering: tuple[str, ...]
    pool: tuple[str, ...]
    weights: dict[str, float]


@dataclass(frozen=True)
class StagePlan:
    """All stages of a run. `affinity_version` pins what the groups came from; None without affinity."""

    regime: str
    stages: tuple[Stage, ...]
    affinity_version: str | None = None
    note: str = ""


def build_plan(recipe: Recipe, sizes: Mapping[str, int], domains: Mapping[str, str]) -> StagePlan:
    """The stages of `recipe` over datasets with `sizes` train examples.

    Raises:
        ConfigError: no affinity folder, or a version made from other datasets.
        AffinityError: no such affinity version, or explicit groups that do not partition the datasets.
    """
    schedule = recipe.schedule
    datasets = sorted(sizes)
    if schedule.regime == "mix_all":
        return StagePlan("mix_all", (_stage(datasets, datasets, schedule.weights, sizes),))
    groups, version, note = _groups(schedule, datasets, domains)
    stages: list[Stage] = []
    pool: list[str] = []
    for group in groups:
        pool = [*pool, *group]
        stages.append(_stage(group, pool, schedule.weights, sizes))
    return StagePlan("gst", tuple(stages), version, note)


def pool_weights(config: WeightsConfig, pool: Sequence[str], sizes: Mapping[str, int]) -> dict[str, float]:
    """Sampling weights of a pool, summing to 1."""
    members = {name: sizes[name] for name in pool}
    if config.kind == "uniform":
        return uniform_weights(members)
    if config.kind == "proportional":
        return proportional_weights(members)
    return temperature_weights(members, config.temperature)


def _stage(entering: Sequence[str], pool: Sequence[str], weights: WeightsConfig, sizes: Mapping[str, int]) -> Stage:
    return Stage(tuple(entering), tuple(pool), pool_weights(weights, pool, sizes))


def _groups(
    schedule: ScheduleConfig, datasets: list[str], domains: Mapping[str, str]
) -> tuple[list[list[str]], str | None, str]:
    """Groups in the order they enter, the version they came from, and a note for the log."""
    if schedule.grouping == "explicit":
        return explicit_partition(schedule.explicit or (), datasets), None, "groups stated in the recipe"
    if schedule.grouping == "domain":
        groups = domain_partition({name: domains[name] for name in datasets})
        return reorder_groups(groups, schedule.order or "random", schedule.seed), None, "groups are the domains"
    version = _load_affinity(schedule, datasets)
    groups = [list(group) for group in version.groups]
    if schedule.grouping == "random":
        sizes = [len(group) for group in groups]
        groups = random_partition(datasets, sizes, schedule.seed)
        # The partition keeps the order of group sizes; any further order would need gradients a control may not use.
        return groups, version.id, f"random partition, sizes matched to {version.id}"
    if schedule.order in (None, "progressive"):
        return groups, version.id, version.verdict
    return reorder_groups(groups, schedule.order, schedule.seed), version.id, version.verdict


def _load_affinity(schedule: ScheduleConfig, datasets: list[str]) -> AffinityVersion:
    if schedule.affinity is None:
        raise ConfigError(
            f"grouping `{schedule.grouping}` needs an affinity version",
            where={"key": "schedule.affinity"},
            hint="run `gst probe` and `gst group`, then set schedule.affinity to their output folder",
        )
    version = load_version(Path(schedule.affinity), schedule.version)
    grouped = sorted(name for group in version.groups for name in group)
    if grouped != datasets:
        raise ConfigError(
            "the affinity version was made from other datasets",
            where={"key": "schedule.affinity", "version": version.id},
            got=grouped,
            expected=datasets,
            hint="probe and group again on these datasets",
        )
    return version

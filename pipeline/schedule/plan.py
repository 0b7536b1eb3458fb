"""From a recipe and what is known of the datasets to stages: which pool, in which order, with which weights."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.affinity.grouping import domain_partition, explicit_partition, random_partition, reorder_groups
from pipeline.affinity.versions import AffinityVersion, has_versions, load_version
from pipeline.config import Recipe, affinity_source
from pipeline.errors import ConfigError
from pipeline.schedule import regimes
from pipeline.schedule.limits import require_possible
from pipeline.schedule.stages import StagePlan
from pipeline.schedule.tasks import TaskSizes, by_level, by_level_then_clusters


def build_plan(
    recipe: Recipe, sizes: Mapping[str, int], domains: Mapping[str, str], tasks: TaskSizes | None = None
) -> StagePlan:
    """The stages of `recipe` over datasets with `sizes` train examples.

    Args:
        tasks: dataset -> task -> train examples; needed for regimes that go by tasks.

    Raises:
        ConfigError: no affinity folder, a version made from other datasets or by another method, a task without a
            level, stages that would never end, or a learning rate that does not fit the stages.
        AffinityError: no such affinity version, or explicit groups that do not partition the datasets.
    """
    plan = _build(recipe, sizes, domains, tasks)
    require_possible(plan, recipe)
    return plan


def _build(recipe: Recipe, sizes: Mapping[str, int], domains: Mapping[str, str], tasks: TaskSizes | None) -> StagePlan:
    schedule, regime = recipe.schedule, recipe.schedule.regime
    if regime in regimes.ONE_STAGE:
        return regimes.everything(schedule, sizes)
    if regime == "ads":
        return regimes.clusters(schedule, sizes)
    if regime in ("tpc", "tpc_ads"):
        assert tasks is not None, "the caller counts the questions of each task"
        return by_level(schedule, tasks) if regime == "tpc" else by_level_then_clusters(schedule, tasks, sizes)
    if regime in ("individual", "sequential"):
        return regimes.one_by_one(schedule, sizes)
    if regime == "mastering_rate" and schedule.mastering.over == "datasets":
        return regimes.mastering(schedule, sizes)
    groups, version, note = _groups(recipe, sorted(sizes), domains)
    if regime == "mastering_rate":
        return regimes.mastering(schedule, sizes, groups, version, note)
    build = regimes.strict_cycle if regime == "gst_strict_cycle" else regimes.progressive
    return build(schedule, groups, sizes, version, note)


def _groups(recipe: Recipe, datasets: list[str], domains: Mapping[str, str]) -> tuple[list[list[str]], str | None, str]:
    """Groups in the order they enter, the version they came from, and a note for the log."""
    schedule = recipe.schedule
    if schedule.grouping == "everything":
        return [list(datasets)], None, "one group"
    if schedule.grouping == "singletons":
        groups = reorder_groups([[name] for name in datasets], schedule.order or "random", schedule.seed)
        return groups, None, "each dataset is a group of its own"
    if schedule.grouping == "explicit":
        return explicit_partition(schedule.explicit or (), datasets), None, "groups stated in the recipe"
    if schedule.grouping == "domain":
        groups = domain_partition({name: domains[name] for name in datasets})
        return reorder_groups(groups, schedule.order or "random", schedule.seed), None, "groups are the domains"
    version = _load_affinity(recipe, datasets)
    groups = [list(group) for group in version.groups]
    if schedule.grouping == "random":
        sizes = [len(group) for group in groups]
        groups = random_partition(datasets, sizes, schedule.seed)
        # The partition keeps the order of group sizes; any further order would need gradients a control may not use.
        return groups, version.id, f"random partition, sizes matched to {version.id}"
    if schedule.order in (None, "progressive"):
        return groups, version.id, version.verdict
    return reorder_groups(groups, schedule.order, schedule.seed), version.id, version.verdict


def _load_affinity(recipe: Recipe, datasets: list[str]) -> AffinityVersion:
    """The version to take groups from; a random partition takes the group sizes of a version of either method."""
    schedule, folder = recipe.schedule, affinity_source(recipe)
    method = None if schedule.grouping == "random" else schedule.grouping
    remedy = f"run `{'gst transfer' if method == 'transferability' else 'gst probe'}` and `gst group`"
    if not has_versions(folder):
        raise ConfigError(
            f"grouping `{schedule.grouping}` needs an affinity version",
            where={"key": "schedule.affinity", "folder": folder},
            hint=f"{remedy}, or set schedule.affinity to the folder that they wrote",
        )
    version = load_version(folder, schedule.version, method)
    if method is not None and version.method != method:
        raise ConfigError(
            "the affinity version was made by another method than the groups are asked for",
            where={"key": "schedule.version", "version": version.id},
            got=version.method,
            expected=method,
            hint=f"set schedule.grouping={version.method}, or name another version",
        )
    grouped = sorted(name for group in version.groups for name in group)
    if grouped != datasets:
        raise ConfigError(
            "the affinity version was made from other datasets",
            where={"key": "schedule.affinity", "version": version.id},
            got=grouped,
            expected=datasets,
            hint=f"{remedy} again on these datasets",
        )
    return version

"""What a plan's stages draw from, for the loader: datasets, parts of them by task level, or clusters of clips."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.config import Recipe
from pipeline.data.clusters import CLUSTERS, ClusterPool, Clusters
from pipeline.data.index import ShardIndex
from pipeline.data.mixture import Mixture
from pipeline.data.pools import DatasetPool, Pool, dataset_pools, examples_by_level
from pipeline.data.sources import Source, Stream, Switch
from pipeline.schedule.stages import StagePlan, unit_name


def needs_clusters(plan: StagePlan) -> bool:
    """Whether any stage draws by cluster."""
    return any(stage.source == "clusters" for stage in plan.stages)


def build_source(
    recipe: Recipe,
    index: ShardIndex,
    plan: StagePlan,
    weights: Mapping[str, float],
    seed: int,
    clusters: Clusters | None = None,
) -> tuple[Source, dict[str, Pool]]:
    """The source and the pools of `plan`, for `TrainLoader`.

    Args:
        weights: of the first stage, by names of the plan.
        clusters: needed when `needs_clusters(plan)`.

    Raises:
        ConfigError: a task of the data is in no level, or unusable weights.
        ShardError: the clusters are of other data.
    """
    kinds = {stage.source for stage in plan.stages}
    sources: dict[str, Source] = {}
    pools: dict[str, Pool] = {}
    if "datasets" in kinds:
        sources["datasets"] = _mixture(recipe, list(index.datasets), seed, weights)
        pools |= dataset_pools(index, sorted(index.datasets), "train")
    if "units" in kinds:
        units = unit_pools(recipe, index)
        sources["units"] = _mixture(recipe, list(units), seed, weights)
        pools |= units
    if "clusters" in kinds:
        assert clusters is not None, "the caller makes them"
        sources["clusters"] = Stream(CLUSTERS, index.datasets)
        pools[CLUSTERS] = ClusterPool(index, clusters)
    if len(sources) > 1:
        return Switch(sources, weights), pools
    (source,) = sources.values()
    source.set_weights(weights)
    return source, pools


def unit_pools(recipe: Recipe, index: ShardIndex) -> dict[str, Pool]:
    """Unit -> the training examples of its dataset whose tasks are of its level."""
    found = examples_by_level(index, recipe.schedule.tpc.levels)
    units = {unit_name(*each): (each[0], numbers) for each, numbers in found.items()}
    return {unit: DatasetPool(unit, dataset, len(numbers), numbers) for unit, (dataset, numbers) in units.items()}


def _mixture(recipe: Recipe, names: list[str], seed: int, weights: Mapping[str, float]) -> Mixture:
    """A mixture over `names`; while another source draws it has no weights of its own yet, and starts uniform."""
    data = recipe.data
    own = {name: weight for name, weight in weights.items() if name in names}
    return Mixture(names, seed, own if any(own.values()) else dict.fromkeys(names, 1.0), data.draw, data.min_share)

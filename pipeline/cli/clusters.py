"""`gst clusters`: make the clusters of a recipe's training clips before `gst train` has to."""

from __future__ import annotations

import numpy as np

from pipeline.cli.clustering import ensure_clusters
from pipeline.cli.launch import launch, run_as_module
from pipeline.cli.options import LocalRank, Overrides, RanksOption, RecipeOption
from pipeline.cli.session import Data
from pipeline.config import Recipe, load_recipe
from pipeline.data.clusters import NOWHERE, Clusters


def clusters(
    recipe: RecipeOption, overrides: Overrides = None, ranks: RanksOption = None, local_rank: LocalRank = 0
) -> None:
    """Embed every training clip by the base model's aligner and cluster them; writes <out>/clusters/."""
    if ranks is not None:
        launch("pipeline.cli.clusters", ["-c", recipe, *(overrides or [])], ranks)
    run_clustering(load_recipe(recipe, overrides or ()))


def run_clustering(recipe: Recipe) -> Clusters:
    """Make them on all ranks, or read them; says what they are. Raises what `ensure_clusters` does."""
    data = Data(recipe)
    from pipeline import engine as engine_room

    comm = engine_room.init_distributed()
    made = ensure_clusters(recipe, data.index, comm)
    if comm.rank == 0:
        print(describe(made))
    engine_room.shutdown(comm)
    return made


def describe(clusters: Clusters) -> str:
    """One line: how many, how large, how mixed, at which cost."""
    everywhere = np.concatenate(list(clusters.labels.values()))
    sizes = np.bincount(everywhere[everywhere != NOWHERE])
    spread = np.zeros(clusters.k, dtype=int)
    for labels in clusters.labels.values():
        spread[np.unique(labels[labels != NOWHERE])] += 1
    seconds = sum(clusters.cost.get(key, 0.0) for key in ("embedding_s", "kmeans_s"))
    return (
        f"{clusters.k} clusters of {sizes.sum()} clips, {sizes.min()} to {sizes.max()} each, "
        f"{int((spread > 1).sum())} of them with clips of several datasets; {clusters.n_left_out} clips left out; "
        f"made in {seconds:.1f} s; digest {clusters.digest[:16]}"
    )


if __name__ == "__main__":
    run_as_module(clusters)

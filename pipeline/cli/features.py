"""`gst features`: compute the features of a recipe's clips once, before training."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.options import Overrides, RecipeOption
from pipeline.config import load_recipe


def features(
    recipe: RecipeOption,
    overrides: Overrides = None,
    processes: Annotated[int, typer.Option(min=1, help="Work on this many shards at a time.")] = 1,
) -> None:
    """Compute log-mel frames or encoder outputs (`data.features.cache`) of every clip; goes on where it stopped."""
    from pipeline.cli.feature_files import features_folder, fill_missing

    config = load_recipe(recipe, overrides or ())
    filled, shards, seconds = fill_missing(config, processes)
    print(
        f"{features_folder(config)}: {config.data.features.cache} of {filled.clips} clips in {filled.shards} shards "
        f"computed in {seconds:.1f} s, {filled.unreadable} clips cannot be read; "
        f"{shards - filled.shards} shards were there"
    )

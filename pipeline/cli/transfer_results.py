"""What `gst transfer` left in `<out>/transfer`, and the affinity version that follows from it; without torch."""

from __future__ import annotations

from pathlib import Path

from pipeline.affinity.transfer import transfer_inputs
from pipeline.affinity.transfer import transfer_version as version_of
from pipeline.affinity.transfer_log import read_log
from pipeline.affinity.versions import AffinityVersion, find_version
from pipeline.config import Recipe
from pipeline.errors import AffinityError


def transfer_folder(recipe: Recipe) -> Path:
    return Path(recipe.out) / "transfer"


def transfer_version(recipe: Recipe) -> AffinityVersion:
    """The affinity version of the results below `<out>/transfer` under `recipe.affinity`, not yet saved.

    Raises:
        AffinityError: no results, not all of them, or those of other trainings.
    """
    folder, wanted = transfer_folder(recipe), recipe.transfer
    log = read_log(folder)
    if log is None:
        raise AffinityError(
            "there are no results of short trainings here", where={"folder": folder}, hint="run `gst transfer`"
        )
    if (log.header.trainings, log.header.steps) != (wanted.trainings, wanted.steps):
        raise AffinityError(
            "the short trainings were others than the recipe asks for",
            where={"file": log.path},
            got=f"trainings: {log.header.trainings}, steps: {log.header.steps}",
            expected=f"trainings: {wanted.trainings}, steps: {wanted.steps}",
            hint="run `gst transfer` with this recipe, or name those trainings in it",
        )
    results = log.results(wanted.seeds)
    existing = find_version(Path(recipe.out) / "affinity", transfer_inputs(results, recipe.affinity))
    return existing or version_of(results, recipe.affinity)

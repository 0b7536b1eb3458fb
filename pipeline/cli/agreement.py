"""`gst agreement`: which datasets are alike by every measure that an experiment has, and how far the measures agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.affinity.agreement import view_of, write_views
from pipeline.affinity.grouping import Metric
from pipeline.affinity.transfer import METHOD
from pipeline.affinity.transfer_log import read_log
from pipeline.affinity.versions import AffinityVersion, latest_kept
from pipeline.cli.affinity_link import affinity_folder, connect
from pipeline.cli.group import group_by_gradients
from pipeline.cli.options import Overrides, RecipeOption
from pipeline.cli.probe_mark import read_mark
from pipeline.cli.transfer_results import transfer_folder, transfer_version
from pipeline.config import Recipe, load_recipe
from pipeline.errors import MissingError

FILE = "agreement.json"


def agreement(
    recipe: RecipeOption,
    overrides: Overrides = None,
    adam: Annotated[
        str | None, typer.Option("--adam", help="Folder `out` of a probe with sketch.gradient=adam.")
    ] = None,
    transfer: Annotated[
        str | None, typer.Option("--transfer", help="Folder `out` of `gst transfer`; else this one.")
    ] = None,
) -> None:
    """Compare affinity measures; writes <out>/affinity/agreement.json."""
    changes = list(overrides or ())
    adam_changes = [*changes, "sketch.mode=partition", "sketch.gradient=adam", f"out={adam}"]
    path = write_agreement(
        load_recipe(recipe, changes),
        load_recipe(recipe, adam_changes) if adam else None,
        load_recipe(recipe, [*changes, f"out={transfer}"] if transfer else changes),
    )
    print(path)


def write_agreement(recipe: Recipe, adam_recipe: Recipe | None, transfer_recipe: Recipe | None) -> Path:
    """Write `<recipe.out>/affinity/agreement.json`: all views of these experiments, and how well each two agree.

    Distances and cosines, corrected and not, are of the probe of `recipe`. All views have as many groups: those that
    `recipe.affinity.groups` asks for, or that `auto` finds by the corrected distances. What has not been measured is
    left out and named in the file.

    Args:
        adam_recipe: of a probe with preconditioned gradients, in a folder of its own.
        transfer_recipe: of `gst transfer`.

    Raises:
        AffinityError: a probe or trainings of another kind than the recipe says, or results that are damaged.
    """
    gradient = _gradient_version(recipe)
    adam = _gradient_version(adam_recipe) if adam_recipe else None
    asked, first = recipe.affinity.groups, gradient or adam
    k = asked if asked != "auto" else len(first.groups) if first else 1
    transfer = _transfer_version(transfer_recipe, k) if transfer_recipe else None

    uncorrected, preconditioned = "not corrected for noise", "gradients over the root of Adam's second moments"
    wanted: list[tuple[str, AffinityVersion | None, Metric, bool, str]] = [
        ("distance", gradient, "distance", True, ""),
        ("cosine", gradient, "cosine", True, ""),
        ("distance_raw", gradient, "distance", False, uncorrected),
        ("cosine_raw", gradient, "cosine", False, uncorrected),
        ("distance_adam", adam, "distance", True, preconditioned),
        ("transferability", transfer, "distance", True, _trainings(transfer)),
    ]
    path = affinity_folder(recipe) / FILE
    write_views(
        path,
        [
            view_of(version, name, metric, k, corrected=corrected, note=note)
            for name, version, metric, corrected, note in wanted
            if version is not None
        ],
        missing=[name for name, version, *_ in wanted if version is None],
    )
    return path


def _gradient_version(recipe: Recipe) -> AffinityVersion | None:
    """The version of the recipe's own probe; None when it was not taken, or not all of its sketches have arrived.

    Grouped by distance, which is defined for every dataset: the views are grouped anew anyway. Training goes on taking
    the version that `gst group` made the latest.
    """
    if read_mark(recipe) is None:
        return None
    try:
        with latest_kept(affinity_folder(recipe)):
            return group_by_gradients(_with_affinity(recipe, method="gradient"))
    except MissingError:
        return None


def _transfer_version(recipe: Recipe, k: int) -> AffinityVersion | None:
    """The version of the recipe's short trainings in `k` groups, in the store; None when they are not all done."""
    log = read_log(transfer_folder(recipe))
    if log is None or not log.is_complete(recipe.transfer.seeds):
        return None
    groups = min(k, len(log.header.datasets))
    version = transfer_version(_with_affinity(recipe, method=METHOD, groups=groups, modules=None))
    with latest_kept(affinity_folder(recipe)):
        connect(recipe).put_version(version)
    return version


def _with_affinity(recipe: Recipe, **changes: object) -> Recipe:
    affinity = recipe.affinity.model_copy(update={"metric": "distance", **changes})
    return recipe.model_copy(update={"affinity": affinity})


def _trainings(version: AffinityVersion | None) -> str:
    """What a version of transferability was measured by."""
    if version is None:
        return ""
    made = version.parameters
    return f"{made['trainings']}: {made['steps']} steps each, {made['repeats']} repeat(s)"

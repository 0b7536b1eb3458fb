"""`gst group`: from stored sketches to an immutable affinity version: who belongs with whom, and in which order."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.affinity.transport import Transport
from pipeline.affinity.versions import AffinityVersion, save_version
from pipeline.cli.affinity_link import SEND_S, affinity_folder, connect, start_client
from pipeline.cli.options import Overrides, RecipeOption
from pipeline.cli.probe_mark import ProbeMark, mark_path, read_mark
from pipeline.cli.transfer_results import transfer_version
from pipeline.config import Recipe, load_recipe
from pipeline.errors import AffinityError, MissingError
from pipeline.sketch.spec import SKETCH_VERSION


def group(
    recipe: RecipeOption,
    overrides: Overrides = None,
    fetch: Annotated[
        str | None, typer.Option("--fetch", help="Take this version of the store instead of computing one.")
    ] = None,
) -> None:
    """Group the datasets of a probe; writes <out>/affinity/<version>, prints groups and evidence."""
    config = load_recipe(recipe, overrides or ())
    show(make_version(config, fetch))


def make_version(recipe: Recipe, fetch: str | None = None) -> AffinityVersion:
    """The version that a recipe asks for, saved in <out>/affinity: training reads it there, and needs no service.

    Args:
        fetch: name of a version of the recipe's store to take in place of computing one.

    Raises:
        AffinityError, MissingError: what it is made from is not there, or not all of it.
    """
    if fetch is not None:
        version = connect(recipe).version(fetch)
    elif recipe.affinity.method == "transferability":
        version = transfer_version(recipe)
        connect(recipe).put_version(version)
    else:
        version = group_by_gradients(recipe)
    save_version(affinity_folder(recipe), version)
    return version


def group_by_gradients(recipe: Recipe) -> AffinityVersion:
    """The store's version of this recipe's probe.

    Raises:
        AffinityError: there is no probe, or it holds sketches of another kind.
        MissingError: sketches are still to come; `got` says whose.
    """
    mark = read_mark(recipe)
    if mark is None:
        raise AffinityError(
            "there is no complete probe here", where={"folder": mark_path(recipe).parent}, hint="run `gst probe`"
        )
    require_same_sketch(recipe, mark)
    start_client(recipe).close(SEND_S)  # what still waits in the outbox
    return ask_for_groups(connect(recipe), recipe, mark)


def require_same_sketch(recipe: Recipe, mark: ProbeMark) -> None:
    """Raise AffinityError unless the probe's sketches are of the kind that the recipe asks for."""
    sketch = recipe.sketch
    expected = {"k": sketch.k, "seed": sketch.seed, "version": SKETCH_VERSION, "gradient": sketch.gradient}
    differing = sorted(key for key, value in expected.items() if mark.spec.get(key) != value)
    if differing:
        raise AffinityError(
            f"the probe holds sketches of another kind: they differ in {', '.join(differing)}",
            where={"file": mark_path(recipe)},
            got={key: mark.spec.get(key) for key in differing},
            expected={key: expected[key] for key in differing},
            hint="run `gst probe` again with this recipe, or give the recipe the probe's sketch settings",
        )


def ask_for_groups(transport: Transport, recipe: Recipe, mark: ProbeMark) -> AffinityVersion:
    """What `Transport.group` gives; where sketches lack, the error says which jobs have to send them."""
    try:
        return transport.group(mark.run, mark.step, recipe.affinity)
    except MissingError as error:
        raise _explained(error, recipe, mark) from None


def _explained(error: MissingError, recipe: Recipe, mark: ProbeMark) -> MissingError:
    by_contributor: dict[str, list[str]] = {}
    for each in error.got if isinstance(error.got, list) else ():
        dataset, _, contributor = str(each).partition("/")
        by_contributor.setdefault(contributor, []).append(dataset)
    if not by_contributor or recipe.service.contributor in by_contributor:
        hint = f"delete {mark_path(recipe)} and run `gst probe` again"
    else:
        hint = "wait for these jobs, or run `gst probe` there with service.contributor=NAME"
    lines = [f"{name} has to send {', '.join(datasets)}" for name, datasets in sorted(by_contributor.items())]
    return MissingError(
        "the store does not have all sketches of this probe",
        where={"run": mark.run, "step": mark.step},
        got="; ".join(lines) or error.what,
        hint=hint,
    )


def show(version: AffinityVersion) -> None:
    """Print a version: one line a group, the evidence, the verdict."""
    console = Console()
    table = Table(title=f"affinity {version.id}", title_justify="left")
    for column in ("group", "enters", "datasets"):
        table.add_column(column)
    for number, members in enumerate(version.groups, start=1):
        table.add_row(f"G{number}", f"stage {number - 1}", ", ".join(members))
    console.print(table)
    if version.grouping.stability or version.grouping.silhouette:
        console.print(evidence(version))
    if version.reliability is not None:
        console.print(f"split-half reliability of the distances: {version.reliability:.2f}")
    for warning in version.estimate.warnings:
        console.print(f"warning: {warning}", markup=False)
    console.print(version.verdict, markup=False)


def evidence(version: AffinityVersion) -> Table:
    """What speaks for each number of groups; the chosen one is marked."""
    grouping = version.grouping
    measures = {"stability": grouping.stability, "silhouette": grouping.silhouette, "eigengap": grouping.eigengap}
    table = Table(title="how many groups", title_justify="left")
    table.add_column("K")
    for name in measures:
        table.add_column(name, justify="right")
    for k in sorted({k for values in measures.values() for k in values}):
        chosen = " *" if k == grouping.k else ""
        table.add_row(f"{k}{chosen}", *(f"{values[k]:.2f}" if k in values else "-" for values in measures.values()))
    return table

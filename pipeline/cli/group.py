"""`gst group`: from a probe's sketches to an immutable affinity version: who belongs with whom, in which order."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.affinity.compute import compute_version
from pipeline.affinity.versions import (
    AffinityVersion,
    find_version,
    inputs_digest,
    load_probe,
    save_version,
)
from pipeline.cli.options import Overrides, RecipeOption
from pipeline.config import load_recipe
from pipeline.sketch.spec import SKETCH_VERSION


def group(recipe: RecipeOption, overrides: Overrides = None) -> None:
    """Read <out>/probe, write <out>/affinity/<version>, print the groups."""
    config = load_recipe(recipe, overrides or ())
    affinity, out = config.affinity, Path(config.out)
    sketch = config.sketch
    expected = {"k": sketch.k, "seed": sketch.seed, "version": SKETCH_VERSION, "gradient": sketch.gradient}
    stats = load_probe(out / "probe", expected)
    inputs = inputs_digest(stats, affinity.model_dump())
    version = find_version(out / "affinity", inputs) or compute_version(stats, affinity)
    save_version(out / "affinity", version)
    show(version)


def show(version: AffinityVersion) -> None:
    """Print a version: one line a group, then the verdict."""
    table = Table(title=f"affinity {version.id}", title_justify="left")
    for column in ("group", "enters", "datasets"):
        table.add_column(column)
    for number, members in enumerate(version.groups, start=1):
        table.add_row(f"G{number}", f"stage {number - 1}", ", ".join(members))
    console = Console()
    console.print(table)
    console.print(version.verdict, markup=False)

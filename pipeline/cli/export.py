"""`gst export`: the model of a run's checkpoint as a folder that others can load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import ConfigError


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run, OUT/arms/ARM-sSEED.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="best|last|STEP", help="Which checkpoint; without it: the one that the recipe tests."),
    ] = None,
    merged: Annotated[bool, typer.Option("--merged", help="Write the whole model, adapters merged.")] = False,
) -> None:
    """Write adapters beside their base model's name, or the whole model, with processor and model card; no GPU."""
    if out.exists():
        raise ConfigError("there is something in this place already", where={"--out": out}, hint="choose another --out")
    from pipeline.cli.exporting import export_checkpoint

    facts = export_checkpoint(run, out, checkpoint, merged=merged)
    kind = "whole model" if facts.is_whole else f"adapters for {facts.base}"
    which = facts.which
    chosen = f", the best by {which.best}" if which.best else ""
    average = "" if which.kind == "trained" else f", averaged ({which.kind})"
    print(f"{out}: {kind}, step {which.step}{chosen}{average}")

"""`gst doctor`: what is installed and what this machine has, what of it is in the way, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.checks import devices, machine, software
from pipeline.cli.checks.row import Row, show, worst
from pipeline.cli.options import Overrides
from pipeline.config import Recipe, load_recipe
from pipeline.data.shard_cache import default_folder


def doctor(
    overrides: Overrides = None,
    recipe: Annotated[
        str | None, typer.Option("-c", "--recipe", help="Look at the folders and the tracking store of this recipe.")
    ] = None,
    port: Annotated[
        list[int] | None, typer.Option(help="A port that you will use, such as the launcher's; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check packages, compilers, GPUs, ports, disks, limits; exits with 1 when something is bad. Compiles nothing."""
    rows = examine(load_recipe(recipe, overrides or ()) if recipe else None, port or [])
    show(rows, "gst doctor", as_json=as_json)
    if worst(rows) == "bad":
        raise typer.Exit(1)


def examine(recipe: Recipe | None, ports: list[int]) -> list[Row]:
    """Every row, for one recipe or for what a run would use by default."""
    out = Path(recipe.out if recipe else "runs")
    cache = Path(recipe.data.cache.folder) if recipe and recipe.data.cache.folder else default_folder()
    has_gpu = devices.has_gpu()
    rows = [
        *software.package_rows(),
        *software.optional_rows(has_gpu),
        software.launcher_row(),
        *software.compiler_rows(has_gpu),
        *software.op_rows(),
        *machine.cpu_rows(),
        *devices.device_rows(),
        machine.shared_memory_row(gpus=devices.gpu_count()),
        machine.open_files_row(),
        *machine.disk_rows(out, cache),
        *(machine.port_row(each, wanted=True) for each in ports),
    ]
    if not ports:
        rows.append(machine.port_row(machine.LAUNCHER_PORT, wanted=False))
    rows += [*machine.ssh_rows(), machine.host_row()]
    if recipe is None or recipe.logging.mlflow:
        rows.append(machine.tracking_row(recipe.logging.tracking_uri if recipe else None, out))
    return rows

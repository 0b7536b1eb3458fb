"""`gst plan` and `gst validate`: what a recipe would do, without doing it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli.options import Overrides, RecipeOption
from pipeline.cli.session import Data
from pipeline.config import load_recipe
from pipeline.config.deepspeed import render_deepspeed
from pipeline.schedule import build_plan


def plan(recipe: RecipeOption, overrides: Overrides = None) -> None:
    """Print the stages: who enters when, with which share."""
    config = load_recipe(recipe, overrides or ())
    data = Data(config)
    stages = build_plan(config, data.sizes, data.domains)
    columns = [f"stage {number}" for number in range(len(stages.stages))]
    table = Table(title=f"{config.arm}: {stages.regime}", title_justify="left")
    for column in ("dataset", "train examples", *columns):
        table.add_column(column, justify="left" if column == "dataset" else "right")
    for name in data.datasets:
        shares = [f"{stage.weights[name]:.1%}" if name in stage.weights else "-" for stage in stages.stages]
        table.add_row(name, str(data.sizes[name]), *shares)
    console = Console()
    console.print(table)
    samples = config.train.max_steps * config.train.global_batch
    console.print(f"budget: {config.train.max_steps} steps, {samples} samples. {stages.note}", markup=False)


def validate(
    recipe: RecipeOption,
    overrides: Overrides = None,
    world_size: Annotated[int, typer.Option(help="Number of ranks it shall run on.")] = 1,
) -> None:
    """Check recipe, DeepSpeed JSON, batch sizes, data and groups; prints nothing but `ok` when all fit."""
    config = load_recipe(recipe, overrides or ())
    render_deepspeed(config, world_size)
    data = Data(config)
    build_plan(config, data.sizes, data.domains)
    print("ok")

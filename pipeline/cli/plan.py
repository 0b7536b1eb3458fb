"""`gst plan` and `gst validate`: what a recipe would do, without doing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli.options import Overrides, RecipeOption
from pipeline.cli.session import Data
from pipeline.config import Recipe, load_recipe
from pipeline.config.deepspeed import render_deepspeed
from pipeline.schedule import StagePlan
from pipeline.schedule.limits import at_stage, deadline, decay_start
from pipeline.schedule.stages import dataset_of


def plan(recipe: RecipeOption, overrides: Overrides = None) -> None:
    """Print the stages: who enters when, with which share, and what ends each."""
    config = load_recipe(recipe, overrides or ())
    data = Data(config)
    stages = data.plan()
    console = Console()
    if any(len(stage.pool) > 1 for stage in stages.stages):
        console.print(_shares(config, stages, data.sizes))
    console.print(_rules(config, stages))
    samples = config.train.max_steps * config.train.global_batch
    console.print(f"budget: {config.train.max_steps} steps, {samples} samples. {stages.note}", markup=False)
    for line in moving_parts(config):
        console.print(line, markup=False)


def _shares(config: Recipe, stages: StagePlan, sizes: Mapping[str, int]) -> Table:
    """Who is drawn with which share in each stage."""
    table = Table(title=f"{config.arm}: {stages.regime}", title_justify="left")
    columns = [f"stage {number}" for number in range(len(stages.stages))]
    for column in ("dataset", "train examples", *columns):
        table.add_column(column, justify="left" if column == "dataset" else "right")
    for name in stages.names:
        shares = [f"{stage.weights[name]:.1%}" if name in stage.weights else "-" for stage in stages.stages]
        size = sizes.get(dataset_of(name))
        table.add_row(name, str(size if dataset_of(name) == name else f"of {size}"), *shares)
    return table


def _rules(config: Recipe, stages: StagePlan) -> Table:
    """What ends each stage."""
    table = Table(title=f"{config.arm}: what ends each stage", title_justify="left")
    for column in ("stage", "enters", "draws from", "ends"):
        table.add_column(column)
    for number, stage in enumerate(stages.stages):
        enters = ", ".join(stage.entering) + (", from the base weights" if stage.reset else "")
        table.add_row(str(number), enters, stage.source, stage_end(config, stages, number))
    return table


def stage_end(config: Recipe, stages: StagePlan, number: int) -> str:
    """In words: every rule that may end a stage, the first that holds does."""
    schedule, steps, stage = config.schedule, config.train.max_steps, stages.stages[number]
    if number == len(stages.stages) - 1 and not stages.cycle:
        return f"with the budget, step {steps}"
    rules = []
    if stages.regime == "gst_adaptive" and schedule.adaptive.advance.enabled:
        rules.append(f"opportunity ({schedule.adaptive.advance.forecast})")
    elif stage.by_plateau and schedule.plateau.detector != "none":
        rules.append(f"plateau ({schedule.plateau.detector})")
    max_tokens = at_stage(schedule.stage.max_tokens, number)
    if max_tokens is not None:
        rules.append(f"{max_tokens} tokens")
    decay = decay_start(config) if stages.regime == "gst_adaptive" else None
    if decay is not None:
        rules.append(f"step {decay} (final decay)")
    end = deadline(stage, number, schedule.stage, entered_step=0, max_steps=steps)
    if end is not None:
        rules.append(f"by step {end[0]}" if end[1] == "budget share" else f"{end[0]} steps ({end[1]})")
    min_tokens = at_stage(schedule.stage.min_tokens, number)
    return " or ".join(rules) + (f"; not flat before {min_tokens} tokens" if min_tokens else "")


def moving_parts(config: Recipe) -> list[str]:
    """What will move while the run goes on, and is therefore not in the plan."""
    schedule = config.schedule
    if schedule.regime == "mastering_rate":
        return ["weights follow the mastering rates of the validation losses"]
    if schedule.regime != "gst_adaptive":
        return []
    adaptive = schedule.adaptive
    parts = {
        f"saturated datasets fall to {adaptive.saturation.floor:g} of an equal share": adaptive.saturation.enabled,
        "the next group enters when it is worth more than the pool": adaptive.advance.enabled,
        f"learning rate re-warms over {adaptive.lr.rewarm_steps} steps after a switch": adaptive.lr.enabled,
        "all groups enter at the final decay": adaptive.lr.enabled and adaptive.lr.all_in_decay,
        f"weights follow gradients ({', '.join(adaptive.policies)})": bool(adaptive.policies),
        f"groups to come may be made anew ({adaptive.regroup.explore:.0%} explores them)": adaptive.regroup.enabled,
        "gain is counted per second": adaptive.cost_aware,
    }
    return [f"[{'x' if on else ' '}] {part}" for part, on in parts.items()]


def validate(
    recipe: RecipeOption,
    overrides: Overrides = None,
    world_size: Annotated[int, typer.Option(help="Number of ranks it shall run on.")] = 1,
) -> None:
    """Check recipe, DeepSpeed JSON, batch sizes, data and groups; prints nothing but `ok` when all fit."""
    config = load_recipe(recipe, overrides or ())
    render_deepspeed(config, world_size)
    data = Data(config)
    data.plan()
    print("ok")

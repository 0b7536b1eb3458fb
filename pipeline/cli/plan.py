"""`gst plan`: what a recipe would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli.options import Overrides, RecipeOption
from pipeline.cli.plan_estimates import SAMPLE_EXAMPLES, Pace, mean_answer_tokens, pace_of, unlike
from pipeline.cli.plan_tree import ASSUMED, mixture_tree
from pipeline.cli.sampling import unit_pools
from pipeline.cli.session import Data
from pipeline.config import Recipe, load_recipe
from pipeline.data.pools import Pool, dataset_pools
from pipeline.errors import ModelError
from pipeline.report.table import duration
from pipeline.schedule import StagePlan
from pipeline.schedule.expected import ExpectedStage, expected_stages
from pipeline.schedule.limits import at_stage, deadline, decay_start


def plan(
    recipe: RecipeOption,
    overrides: Overrides = None,
    like: Annotated[
        Path | None, typer.Option(metavar="RUN_FOLDER", help="A finished run of the same experiment, for times.")
    ] = None,
) -> None:
    """Print the mixture tree: stages, what each draws, what that comes to, and what ends it."""
    config = load_recipe(recipe, overrides or ())
    data = Data(config)
    stages = data.plan()
    pools = _pools(config, data, stages)
    pace = pace_of(like) if like else None
    tokens, no_tokens = None, ""
    try:
        tokens = mean_answer_tokens(config, data.index, pools)
    except ModelError as error:
        no_tokens = error.what
    expected = expected_stages(config, stages, {name: len(pool) for name, pool in pools.items()}, tokens)
    console = Console()
    console.print(mixture_tree(config, stages, expected, data.sizes, pace))
    console.print(_rules(config, stages))
    samples = config.train.max_steps * config.train.global_batch
    console.print(f"budget: {config.train.max_steps} steps, {samples} samples. {stages.note}", markup=False)
    remarks = (*_remarks(config, stages, expected, no_tokens), *_time_remarks(config, expected, like, pace))
    for line in (*moving_parts(config), *remarks):
        console.print(line, markup=False, highlight=False)


def _pools(config: Recipe, data: Data, stages: StagePlan) -> dict[str, Pool]:
    """What the plan's names are."""
    pools = dataset_pools(data.index, data.datasets, "train")
    if any(stage.source == "units" for stage in stages.stages):
        pools |= unit_pools(config, data.index)
    return {name: pools[name] for name in stages.names}


def _remarks(config: Recipe, stages: StagePlan, expected: Sequence[ExpectedStage], no_tokens: str) -> Iterator[str]:
    """How the tree's numbers are meant."""
    if len(stages.stages) > 1 and any(stage.ends_at is None or stage.by_plateau for stage in stages.stages):
        yield "steps: all that its limits leave to a stage; one that ends sooner leaves the rest to those after it"
    if any(stage.assumed for stage in expected):
        yield f"{ASSUMED}: no limit says when this stage ends; it was given an equal share of the steps that are left"
    if any(stage.source == "clusters" for stage in stages.stages):
        yield "clusters: what they hold of each dataset shows when they are made (gst clusters)"
    if no_tokens:
        yield f"tokens: not known: {no_tokens} ({config.model.path})"
    else:
        yield f"tokens: of answers; the mean of up to {SAMPLE_EXAMPLES} training examples of each"


def _time_remarks(
    config: Recipe, expected: Sequence[ExpectedStage], like: Path | None, pace: Pace | None
) -> Iterator[str]:
    """Where the tree's times come from, and whether they fit."""
    if like is None or pace is None:
        yield "times: give --like RUN_FOLDER, a finished run of the same experiment"
        return
    test = "" if pace.test is None else f", and {duration(pace.test)} for the test split"
    yield f"times: {pace.step:.3g} s a step, {pace.evaluation:.3g} s an evaluation, as in {like}"
    yield f"in all {duration(pace.of(expected))} of training and evaluations{test}"
    for line in unlike(config, like):
        yield f"times are of another kind of step: {line}"


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

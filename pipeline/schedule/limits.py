"""When a stage must end, whatever its losses do: tokens, shares of the budget, and whether it can end at all."""

from __future__ import annotations

import math
from typing import Any

from pipeline.config.schedule import StageConfig
from pipeline.config.schema import Recipe
from pipeline.errors import ConfigError
from pipeline.schedule.stages import Stage, StagePlan

DECAYING = ("wsd", "infinite")  # learning-rate schedules that are constant until one final decay


def at_stage(value: Any, number: int) -> Any:
    """A limit's value for stage `number`: itself, or its place in a list whose last value holds on."""
    return value[min(number, len(value) - 1)] if isinstance(value, tuple) else value


def deadline(
    stage: Stage, number: int, limits: StageConfig, *, entered_step: int, max_steps: int
) -> tuple[int, str] | None:
    """The step at whose evaluation the stage must end, and the rule that says so; None: there is none.

    The earliest of its own share, its place in the budget, and `max_share`; at least one step after its entry.
    """
    found: list[tuple[int, str]] = []
    if stage.visit_share is not None:
        found.append((entered_step + round(stage.visit_share * max_steps), "visit share"))
    if stage.ends_at is not None:
        found.append((round(stage.ends_at * max_steps), "budget share"))
    max_share = at_stage(limits.max_share, number)
    if max_share is not None:
        found.append((entered_step + math.ceil(max_share * max_steps), "max_share"))
    if not found:
        return None
    step, rule = min(found)
    return max(step, entered_step + 1), rule


def decay_start(recipe: Recipe) -> int | None:
    """`gst_adaptive`: the step after which the final decay over all data begins; None: there is no such thing."""
    schedule, train = recipe.train.lr_schedule, recipe.train
    tied = recipe.schedule.adaptive.lr
    if not (tied.enabled and tied.all_in_decay and schedule.kind in DECAYING):
        return None
    return train.max_steps - round(schedule.decay_share * train.max_steps)


def require_possible(plan: StagePlan, recipe: Recipe) -> None:
    """Every stage but the last must be able to end, and a learning rate tied to stages must hold between them.

    Raises:
        ConfigError: without a plateau detector nothing would bring the next stage; or `gst_adaptive` with a learning
            rate that falls all the time.
    """
    schedule, kind = recipe.schedule, recipe.train.lr_schedule.kind
    adaptive = plan.regime == "gst_adaptive"
    if adaptive and schedule.adaptive.lr.enabled and kind not in (*DECAYING, "constant"):
        raise ConfigError(
            "the learning rate is tied to stages, and this schedule is not constant between them",
            where={"key": "train.lr_schedule.kind"},
            got=kind,
            expected=", ".join((*DECAYING, "constant")),
            hint="or set schedule.adaptive.lr.enabled=false",
        )
    if schedule.plateau.detector != "none" or (adaptive and schedule.adaptive.advance.enabled):
        return
    ending = plan.stages if plan.cycle else plan.stages[:-1]
    for number, stage in enumerate(ending):
        if at_stage(schedule.stage.max_tokens, number) is not None:
            continue
        if deadline(stage, number, schedule.stage, entered_step=0, max_steps=1) is None:
            raise ConfigError(
                "a stage would never end",
                where={"key": "schedule.plateau.detector", "stage": number},
                got="none",
                hint="choose a detector, or set schedule.stage.max_share or schedule.stage.max_tokens",
            )

"""The controller that a plan needs."""

from __future__ import annotations

from pipeline.config.schema import Recipe
from pipeline.schedule.adaptive.controller import AdaptiveController
from pipeline.schedule.controller import StageController
from pipeline.schedule.stages import StagePlan
from pipeline.schedule.weighted import WeightController
from pipeline.types import Controller


def build_controller(plan: StagePlan, recipe: Recipe) -> Controller:
    """The one in charge of a run with this plan."""
    if plan.regime == "gst_adaptive":
        return AdaptiveController(plan, recipe)
    if plan.regime in ("gram", "pike", "mastering_rate"):
        return WeightController(plan, recipe)
    return StageController(plan, recipe)

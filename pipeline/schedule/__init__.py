"""Regimes, plateau detectors, stage plan and controller."""

from pipeline.schedule.build import build_controller
from pipeline.schedule.controller import StageController
from pipeline.schedule.plan import build_plan
from pipeline.schedule.stages import Stage, StagePlan

__all__ = ["Stage", "StageController", "StagePlan", "build_controller", "build_plan"]

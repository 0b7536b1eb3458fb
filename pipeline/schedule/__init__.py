"""Regimes, plateau detectors, stage plan and controller."""

from pipeline.schedule.controller import StageController
from pipeline.schedule.plan import Stage, StagePlan, build_plan

__all__ = ["Stage", "StageController", "StagePlan", "build_plan"]

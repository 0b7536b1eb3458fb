"""Optimizers by name, each right on the flat slices of the weights that ZeRO-3 hands an optimizer."""

from pipeline.engine.optimizers.build import attach_optimizer, build_optimizer
from pipeline.engine.optimizers.registry import OPTIMIZERS, Needs, OptimizerEntry

__all__ = ["OPTIMIZERS", "Needs", "OptimizerEntry", "attach_optimizer", "build_optimizer"]

"""Scoring: teacher-forced token accuracy, exact match and loss per dataset."""

from pipeline.eval.score import score

__all__ = ["score"]

"""Scoring: teacher-forced token accuracy, exact match and loss; generated answers and their metrics."""

from pipeline.eval.generate import generate
from pipeline.eval.score import score, score_examples

__all__ = ["generate", "score", "score_examples"]

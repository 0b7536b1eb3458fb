"""Metrics of generated answers, by the kind of answer a task asks for. No torch, no Java, no download."""

from pipeline.eval.metrics.answer import Answer
from pipeline.eval.metrics.kinds import KINDS, Kind, kind_of
from pipeline.eval.metrics.scoring import METRICS, Scored, measure, score_answers

__all__ = ["KINDS", "METRICS", "Answer", "Kind", "Scored", "kind_of", "measure", "score_answers"]

"""Tuning the baseline: axis by axis, the candidate whose macro validation loss ends lowest."""

from __future__ import annotations

import math
from pathlib import Path

from pipeline.config.grid import GridSpec, Tuned
from pipeline.grid.tasks import SEARCH
from pipeline.runlog.events import effective_events, read_event_lines


def final_loss(run: Path) -> float | None:
    """Mean over datasets of the last evaluation's validation loss, nats per token; None when there is none.

    NaN in any dataset makes it infinite: such a candidate is never chosen.
    """
    events = effective_events(read_event_lines(run / "events-rank0.jsonl")[0])
    evaluations = [event for event in events if event["event"] == "eval" and event.get("split") == "val"]
    if not evaluations:
        return None
    losses = [row["loss"] for row in evaluations[-1]["datasets"].values()]
    mean = sum(losses) / len(losses)
    return mean if math.isfinite(mean) else math.inf


def choose(grid: GridSpec, out: Path, before: str | None = None) -> Tuned:
    """The best candidate of every axis that has all of its runs, in order; later axes were run with earlier answers.

    Of equal losses the candidate named first wins.

    Args:
        before: only the axes before this one.
    """
    tuned = Tuned()
    best_so_far = math.inf
    for number, (axis_name, axis) in enumerate(grid.search.axes.items()):
        if axis_name == before:
            break
        losses: dict[str, float] = {}
        for name, overrides in axis.candidates.items():
            if not overrides and number:
                losses[name] = best_so_far
                continue
            loss = final_loss(out / SEARCH / "arms" / f"{axis_name}-{name}-s{grid.search.seed}")
            if loss is None:
                return tuned
            losses[name] = loss
        best = min(losses, key=lambda name: losses[name])
        best_so_far = losses[best]
        key = "weights" if axis.is_weights else "overrides"
        tuned = tuned.model_copy(
            update={
                "chosen": {**tuned.chosen, axis_name: best},
                "scores": {**tuned.scores, **{f"{axis_name}: {name}": loss for name, loss in losses.items()}},
                key: (*getattr(tuned, key), *axis.candidates[best]),
            }
        )
    return tuned

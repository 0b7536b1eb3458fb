"""Runs on every rank, see `test_checkpoint_world.py`: trainings that begin on some ranks and end on others.

world_worker RECIPE WHOLE BROKEN   train WHOLE to its end, and BROKEN until the checkpoint of step STOP_AT
world_worker RECIPE BROKEN         go on with BROKEN to its end
"""

from __future__ import annotations

import sys

from pipeline.cli.errors import run_guarded
from pipeline.cli.train import Run
from pipeline.config import Recipe, load_recipe
from tests.bench.resume_worker import LoggedLoader
from tests.dist.stopped_runs import Stop, train

STOP_AT = 6
ARMS = {
    # An open window of sketches, every strategy that keeps slices, and the best weights from before the change.
    "together": (
        "train.averaging={kind: ema, decay: 0.5}",
        "train.optimizer={name: adamw, lr: 5.0e-3, autoclip: {percentile: 60}}",
        "train.grades={threshold: 0.6, window: 2, grace_share: 0.2}",
        "train.keep_best={metric: val/macro/loss, mode: max}",
    ),
    # Stages that go back to the base, which other ranks wrote; an optimizer of whole parameters; merged snapshots.
    "individual": (
        "schedule.regime=individual",
        "train.optimizer={name: lamb, lr: 5.0e-3}",
        "train.averaging={kind: merge, last: 3}",
        "train.checkpoint_every=2",
        "sketch.enabled=false",
    ),
}


def work() -> None:
    """One rank's part."""
    file, *outs = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    for arm, keys in ARMS.items():
        if len(outs) == 1:
            train(recipe_of(file, outs[0], arm, keys), prepare=log_samples)
            continue
        train(recipe_of(file, outs[0], arm, keys), prepare=log_samples)
        try:
            train(recipe_of(file, outs[1], arm, keys), STOP_AT, log_samples)
        except Stop:
            continue


def recipe_of(file: str, out: str, arm: str, keys: tuple[str, ...]) -> Recipe:
    return load_recipe(file, [f"out={out}", f"arm={arm}", "logging.mlflow=false", *keys])


def log_samples(run: Run) -> None:
    """What every rank trains on goes to its log."""
    run.trainer.loader = LoggedLoader(run.loader, run.session.events)  # type: ignore[assignment]


if __name__ == "__main__":
    run_guarded(work)

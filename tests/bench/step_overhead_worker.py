"""Runs on every rank, see `step_overhead.py`: windows of training steps with and without the sketch, by turns."""

from __future__ import annotations

import math
import time

from pipeline.cli.errors import run_guarded
from pipeline.cli.recording import build_recorder
from pipeline.cli.session import Session
from pipeline.engine import Trainer
from pipeline.models.load import trainable_parameters
from pipeline.sketch.hooks import full_shapes
from pipeline.sketch.recorder import SketchRecorder
from tests.bench.mini_worker import hand_back, new_trainer, open_session, worker_parser

WARM_UP_STEPS = 10


def work() -> None:
    """One rank's part: windows with and without the sketch, alternating; rank 0 hands the seconds back."""
    parser = worker_parser()
    parser.add_argument("--rounds", type=int, required=True)
    options = parser.parse_args()
    session = open_session(options)
    trainer = new_trainer(session)
    trainer.warm_up(WARM_UP_STEPS)
    here = trainer.loader.state_dict()
    seconds: dict[str, list[list[float]]] = {"with": [], "without": []}
    processor_s: dict[str, list[float]] = {"with": [], "without": []}
    for number in range(-1, options.rounds):  # the first round does not count: kernels are compiled in it
        for way in ("with", "without") if number % 2 else ("without", "with"):
            trainer.loader.load_state_dict(here)  # the same micro-batches in every window
            steps, busy_s = time_window(trainer, session, is_sketched=way == "with")
            if number >= 0:
                seconds[way].append(steps)
                processor_s[way].append(sum(session.comm.gather_objects(busy_s)))
    shapes = full_shapes(trainable_parameters(session.engine.module))
    sizes = [math.prod(shape) for shape in shapes.values()]
    measured = {"seconds": seconds, "processor_s": processor_s}
    hand_back(session, {**measured, "tensors": len(sizes), "elements": sum(sizes)})


def time_window(trainer: Trainer, session: Session, *, is_sketched: bool) -> tuple[list[float], float]:
    """Seconds of each step of one window of the sketch, which it closes, and processor seconds of this rank in all.

    Without the sketch no hook is registered.
    """
    steps = session.recipe.sketch.window_steps
    trainer.clock.step = 0  # so that the window's last step closes it
    recorder = build_recorder(session) if is_sketched else None
    trainer.recorder = recorder
    seconds = []
    busy_before_s = time.process_time()
    for step in range(1, steps + 1):
        started_s = time.perf_counter()
        trainer.warm_up(step)
        seconds.append(time.perf_counter() - started_s)
    busy_s = time.process_time() - busy_before_s
    trainer.recorder = None
    if is_sketched:
        assert isinstance(recorder, SketchRecorder), "the recipe sketches by hooks"
        recorder.sketcher.close()
    return seconds, busy_s


if __name__ == "__main__":
    run_guarded(work)

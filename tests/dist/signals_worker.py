"""Runs on every rank, see `test_signals.py`: says that it is there, and leaves as a training does when asked to."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pipeline.cli.errors import run_guarded
from pipeline.dist import launched_rank
from pipeline.stopping import StopSignals


def work() -> None:
    """Wait for a signal, for at most a minute, and take a moment to leave; how is the last argument.

    `noting`: at the end of a pause; `deaf`: never; `starting`: in the middle of one.
    """
    folder, how = Path(sys.argv[-2]), sys.argv[-1]
    with StopSignals().listening() as stop:
        (folder / f"ready-{launched_rank()}").touch()
        if how == "starting":
            time.sleep(60)
        with stop.deferred():
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and (how == "deaf" or stop.received is None):
                time.sleep(0.05)
            time.sleep(1)
            (folder / f"saved-{launched_rank()}").touch()
            raise stop.stopped_together("step-000007")


if __name__ == "__main__":
    run_guarded(work)

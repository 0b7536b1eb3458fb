"""Stand between the user and DeepSpeed's launcher, so that a signal reaches the ranks and nothing is left behind.

What the launcher (0.19) does alone, as `tests/integration/test_supervise.py` measures: `deepspeed` itself dies of
SIGTERM and leaves everything below it running; the process below it passes SIGTERM on to one rank after the other,
kills each that has not gone after 30 seconds, and exits with 1. Here the ranks get the signal themselves, all at once
and with the time that they need, and their exit code is ours.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from pipeline.stopping import SAME_REQUEST_S, SIGNALS


def supervise(command: Sequence[str]) -> int:
    """Run a launcher to its end; returns its exit code, 128 + n when signal n killed it.

    SIGTERM, SIGINT and the terminal's hang-up go to the ranks as SIGTERM, which makes a training save and leave. A
    second one, later than `SAME_REQUEST_S`, kills everything.
    """
    process = psutil.Popen(list(command), start_new_session=True)
    first_s: float | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first_s
        first_s = first_s or time.monotonic()
        again = time.monotonic() - first_s > SAME_REQUEST_S
        _send(process, signal.SIGKILL if again else signal.SIGTERM)

    with _handlers(handle):
        code = int(process.wait())
    return code if code >= 0 else 128 - code


@contextmanager
def _handlers(handle: object) -> Iterator[None]:
    # A shell's `nohup` ignores the hang-up, and so do we then.
    hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    before = {number: signal.signal(number, handle) for number in (*SIGNALS, *hang_up)}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(launcher: psutil.Process, number: int) -> None:
    """To the ranks below `launcher`; SIGKILL, or any signal while there are no ranks yet, to all of its processes."""
    below = launcher.children(recursive=True)
    ranks = {process for process in below if _is_rank(process)}
    workers = {child for rank in ranks for child in rank.children(recursive=True)}  # they have a rank's environment
    everything = number == signal.SIGKILL or not ranks
    for process in (*below, launcher) if everything else ranks - workers:
        with suppress(psutil.Error, subprocess.SubprocessError):
            process.send_signal(number)


def _is_rank(process: psutil.Process) -> bool:
    try:
        return "RANK" in process.environ()
    except psutil.Error:
        return False

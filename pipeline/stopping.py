"""SIGTERM and SIGINT: a run that is asked to stop ends a step, saves, and leaves.

A launcher and a cluster pass one request on in several ways within a moment (Ctrl-C reaches every process, and the
launcher then sends SIGTERM to the ranks as well), so what follows the first signal at once is the same request. A
signal after that means: now.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.dist import launched_rank
from pipeline.errors import Stopped, StoppedTogether

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_REQUEST_S = 2.0


class StopSignals:
    """What signals this process got; one for a process, at work inside `listening`."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._deferred = False

    @contextmanager
    def listening(self) -> Iterator[StopSignals]:
        """Take over SIGTERM and SIGINT; outside the main thread, which alone may do that, nothing happens.

        Inside, the first signal raises `Stopped`, unless `deferred`. A second one ends the process at once, also when
        the main thread is inside a collective that waits for a lost rank.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        # Python runs handlers between two bytecodes of the main thread; this descriptor is written to in any case.
        old_writer = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_leave_on_second, args=(reader,), daemon=True).start()
        try:
            yield self
        finally:
            signal.set_wakeup_fd(old_writer)
            for number, handler in before.items():
                signal.signal(number, handler)
            writer.close()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal is noted in `received` and nothing else; it is for whoever entered this to act on it."""
        if self.received:
            raise self.stopped()
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def stopped(self) -> Stopped:
        """What to raise on this rank alone."""
        return self._leaving(Stopped, None)

    def stopped_together(self, saved: str | None) -> Stopped:
        """What to raise on every rank; `saved`: the name of the checkpoint that was written."""
        return self._leaving(StoppedTogether, saved)

    def _leaving(self, kind: type[Stopped], saved: str | None) -> Stopped:
        asked = self.received.name if self.received else "a signal to another rank"
        return kind(
            f"stopped by {asked}",
            where={"checkpoint": saved} if saved else None,
            hint="run the same command again: it goes on from the newest checkpoint",
        )

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        if not self._deferred:
            raise self.stopped()


def _leave_on_second(reader: socket.socket) -> None:
    """Runs in a thread: each byte is the number of a signal; nothing more comes when the writer is closed."""
    first_s: float | None = None
    with reader:
        while byte := reader.recv(1):
            if byte[0] not in SIGNALS:
                continue
            first_s = first_s or time.monotonic()
            if time.monotonic() - first_s > SAME_REQUEST_S:
                name = signal.Signals(byte[0]).name
                print(f"rank {launched_rank()}: {name} again, leaving at once", file=sys.stderr, flush=True)
                os._exit(128 + byte[0])

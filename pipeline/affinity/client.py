"""What a job tells its affinity store, without ever waiting for it: one thread sends, the outbox and the log keep."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.affinity.outbox import Outbox, Publication
from pipeline.affinity.payload import dump_contribution
from pipeline.affinity.records import RunRecord, SketchKey
from pipeline.affinity.shipping import EventShipper
from pipeline.affinity.transport import Transport
from pipeline.errors import (
    AccessError,
    AffinityError,
    ConfigError,
    ConflictError,
    GstError,
    PayloadError,
    StoreBusyError,
    StoreFullError,
    UnreachableError,
)

LATER = (UnreachableError, StoreBusyError, StoreFullError)
REFUSALS = (PayloadError, ConflictError)
HOPELESS = (AccessError, ConfigError)  # for this process: its settings are wrong, not what it sends
WINDOW = "window"

_LOG = logging.getLogger("pipeline.affinity")


@dataclass(frozen=True)
class Pace:
    """How often the worker looks for work, and how long it waits after failures: doubling from first to longest.

    `flush_attempts`: after so many that failed, a flush does not wait any longer for a store that is away.
    """

    every_s: float = 2.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 60.0
    flush_attempts: int = 3

    def pause_s(self, failures: int) -> float:
        """Until the next attempt, after so many failures in a row."""
        if failures == 0:
            return self.every_s
        return min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(failures - 1, 30))


class AffinityClient:
    """Publishes a job's sketches and events from one daemon thread; to be used on rank 0 only.

    What the store cannot take now (it is down, busy, full) is tried again with growing pauses; what it will never take
    is moved aside in the outbox. Where the job itself is at fault (a wrong token, a bad address) nothing more is tried
    by this process, and everything waits in the outbox. Each trouble is said once, and none of them stops the job.

    Args:
        connect: makes the transport; called again after a failure, because a store may have moved behind a service.
        shipper: of the run's event log; None for jobs whose log is not shipped.
    """

    def __init__(
        self,
        connect: Callable[[], Transport],
        outbox: Outbox,
        shipper: EventShipper | None = None,
        *,
        pace: Pace | None = None,
    ) -> None:
        self.outbox = outbox
        self.sent = 0  # publications that the store has whole
        self.refused: list[str] = []  # why items were moved aside
        self.superseded = 0  # windows of which the store has another copy, from before a fresh start
        self.trouble: str | None = None  # what keeps the rest from being sent at the moment
        self._connect = connect
        self._shipper = shipper
        self._pace = pace or Pace()
        self._transport: Transport | None = None
        self._pushed: dict[str, int] = {}  # item -> datasets that the store has, of an item that was interrupted
        self._foreign: dict[str, ConflictError] = {}  # runs that the store knows as other runs
        self._said: set[str] = set()
        self._failures = 0  # in a row
        self._failed_attempts = 0
        self._halted = False
        self._closed = False
        self._asked = self._served = 0  # flushes
        self._due_s = time.monotonic()
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="affinity-client", daemon=True)
        self._thread.start()

    def publish(self, publication: Publication) -> str | None:
        """Put sketches on their way: on disk when this returns, sent when the store can take them.

        Returns:
            The item's name in the outbox; None for a window that could not be written and is given up.

        Raises:
            StoreFullError, PayloadError: a probe cannot be written to the outbox.
        """
        try:
            name = self.outbox.add(publication)
        except (StoreFullError, PayloadError) as error:
            if publication.probe.kind != WINDOW:
                raise
            self._say("outbox", f"the sketches of a window are given up: {error}")
            return None
        with self._change:
            if self._failures == 0:
                self._due_s = time.monotonic()
                self._change.notify_all()
        return name

    def flush(self, timeout_s: float) -> bool:
        """Send everything now; False when something still waits after `timeout_s`, or the store is away."""
        with self._change:
            self._asked += 1
            mine, most = self._asked, self._failed_attempts + self._pace.flush_attempts
            self._failures = 0
            self._due_s = time.monotonic()
            self._change.notify_all()

            def is_over() -> bool:
                return self._served >= mine or self._halted or self._closed or self._failed_attempts >= most

            self._change.wait_for(is_over, timeout_s)
            return self._served >= mine

    def close(self, timeout_s: float) -> bool:
        """Flush, then let the thread end; what is left waits in the outbox and the log. Returns what `flush` does."""
        done = self.flush(timeout_s) if timeout_s > 0 else False
        with self._change:
            self._closed = True
            self._change.notify_all()
        return done

    def _work(self) -> None:
        while self._wait_until_due():
            with self._change:
                asked = self._asked
            try:
                self._send_all()
            except Exception as error:  # whatever happens here, the job goes on
                self._failed(error)
            else:
                self._succeeded(asked)

    def _wait_until_due(self) -> bool:
        with self._change:
            while not self._closed and not self._halted and (left_s := self._due_s - time.monotonic()) > 0:
                self._change.wait(left_s)
            return not self._closed and not self._halted

    def _succeeded(self, asked: int) -> None:
        with self._change:
            self.trouble = None
            self._failures = 0
            has_more = self._asked > asked or bool(self.outbox.waiting())
            self._due_s = time.monotonic() + (0 if has_more else self._pace.every_s)
            self._served = asked
            self._change.notify_all()

    def _failed(self, error: Exception) -> None:
        self._transport = None
        if isinstance(error, LATER):
            if self._failures:  # a first one may only mean that the store has moved behind a service
                self._say("later", f"sketches and events wait until the affinity store can take them: {error}")
        elif isinstance(error, HOPELESS):
            self._say("halted", f"nothing is sent to the affinity store by this job; it all waits on disk: {error}")
        elif "unexpected" not in self._said:
            self._said.add("unexpected")
            _LOG.error("an error of the affinity client, which does not touch the job", exc_info=error)
        with self._change:
            self.trouble = error.what if isinstance(error, GstError) else repr(error)
            self._failures += 1
            self._failed_attempts += 1
            self._halted = isinstance(error, HOPELESS)
            self._due_s = time.monotonic() + self._pace.pause_s(self._failures)
            self._change.notify_all()

    def _send_all(self) -> None:
        if self._transport is None:
            self._transport = self._connect()
        if self._shipper is not None:
            try:
                self._shipper.ship(self._transport)
            except REFUSALS as error:
                self._shipper = None
                self._say("log", f"the events of this run stay in its log alone: {error}")
        for name in self.outbox.waiting():
            self._send_item(self._transport, name)

    def _send_item(self, transport: Transport, name: str) -> None:
        try:
            publication = self.outbox.read(name)
        except PayloadError as error:
            self._refuse(name, error)
            return
        if publication is None:
            return
        try:
            self._deliver(transport, name, publication)
        except REFUSALS as error:
            is_own_run = publication.run.name not in self._foreign
            if isinstance(error, ConflictError) and publication.probe.kind == WINDOW and is_own_run:
                self.superseded += 1
                self.outbox.remove(name)
            else:
                self._refuse(name, error)
        else:
            self.sent += 1
            self.outbox.remove(name)
        self._pushed.pop(name, None)

    def _deliver(self, transport: Transport, name: str, publication: Publication) -> None:
        """Declare and push everything; after an interruption it goes on with the dataset that was interrupted."""
        probe = publication.probe
        self._declare_run(transport, publication.run)
        transport.declare_probe(probe)
        for number, dataset in enumerate(probe.datasets):
            if number < self._pushed.get(name, 0):
                continue
            key = SketchKey(
                run=probe.run,
                step=probe.step,
                dataset=dataset,
                contributor=publication.contributor,
                spec=probe.spec_digest,
            )
            transport.push(key, dump_contribution(publication.stats, dataset))
            self._pushed[name] = number + 1

    def _declare_run(self, transport: Transport, run: RunRecord) -> None:
        if run.name in self._foreign:
            raise self._foreign[run.name]
        try:
            transport.declare_run(run)
        except ConflictError as error:
            self._foreign[run.name] = error
            raise

    def _refuse(self, name: str, error: AffinityError) -> None:
        self.outbox.refuse(name, str(error))
        self.refused.append(str(error))
        aside = self.outbox.folder / "refused"
        self._say("refused", f"the affinity store does not take some sketches; they are in {aside}: {error}")

    def _say(self, about: str, message: str) -> None:
        if about not in self._said:
            self._said.add(about)
            _LOG.warning("%s", message)

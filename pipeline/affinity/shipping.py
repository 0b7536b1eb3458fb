"""Sending a run's event log to an affinity store, line by line; the log itself is the truth and the spool."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from pipeline.affinity.records import EventLine, RunRecord
from pipeline.affinity.transport import Transport
from pipeline.errors import ConflictError, PayloadError

# Kinds of events that stay in the log: they come with every step or example, and no curve is drawn from them.
NOT_SHIPPED = frozenset({"step", "bad_sample"})
MAX_LINES = 500
MAX_BYTES = 256 * 1024  # of one batch; a longer line travels alone

_LONGEST_LINE = 2**20  # no store takes a longer one
_LOG = logging.getLogger("pipeline.affinity")


class EventShipper:
    """Brings a store's copy of one log up to date, from where the store says that it ends.

    Lines are keyed by the byte position where they end, so a batch that is sent twice counts once.

    Args:
        log: `events-rank0.jsonl` of a run; another process may be appending to it.
        run: the run it belongs to.
    """

    def __init__(self, log: Path, run: RunRecord) -> None:
        self.run = run
        self._log = log
        self._transport: Transport | None = None
        self._position = 0
        self._has_warned = False

    def ship(self, transport: Transport) -> int:
        """Send every new whole line; returns how many were sent. A torn last line waits until it is whole.

        Raises:
            ConflictError: the store holds events of another log under this run's name.
            AffinityError: what `Transport.append_events` raises; what was sent before stays sent.
        """
        if transport is not self._transport:
            transport.declare_run(self.run)
            self._position = transport.append_events(self.run.name, [])
            self._require_ours(transport)
            self._transport = transport
        sent = 0
        for lines, position in self._batches():
            sent += self._send(transport, lines)
            self._position = position
        return sent

    def _require_ours(self, transport: Transport) -> None:
        """Compare the last stored event with the line of this log that ends there, by sending it once more."""
        if self._position == 0:
            return
        start = max(0, self._position - _LONGEST_LINE)
        before = b""
        if self._log.exists():
            with open(self._log, "rb") as file:
                file.seek(start)
                before = file.read(self._position - start)
        last = before[before[:-1].rfind(b"\n") + 1 :]
        line = _event_line(last, self._position) if last.endswith(b"\n") else None
        try:
            if len(before) < self._position - start or line is None:
                raise ConflictError("the log has no such event")
            transport.append_events(self.run.name, [line])
        except ConflictError:
            raise ConflictError(
                "the affinity store holds events of another log under this run's name",
                where={"run": self.run.name, "file": self._log},
                hint="was the run's folder deleted? service.project gives its next runs other names",
            ) from None

    def _batches(self) -> Iterator[tuple[list[EventLine], int]]:
        """New whole lines worth sending, and the position after each batch, which may be further on."""
        if not self._log.exists():
            return
        lines: list[EventLine] = []
        position, size = self._position, 0
        with open(self._log, "rb") as file:
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                if lines and (len(lines) == MAX_LINES or size + len(line) > MAX_BYTES):
                    yield lines, position
                    lines, size = [], 0
                position += len(line)
                event = _event_line(line, position)
                if event is not None:
                    lines.append(event)
                    size += len(line)
        yield lines, position

    def _send(self, transport: Transport, lines: list[EventLine]) -> int:
        if not lines:
            return 0
        try:
            transport.append_events(self.run.name, lines)
            return len(lines)
        except PayloadError as error:
            if len(lines) > 1:  # one of them is at fault; the others shall arrive
                return sum(self._send(transport, [line]) for line in lines)
            if not self._has_warned:
                self._has_warned = True
                _LOG.warning("an event of %s was refused and stays in %s alone: %s", self.run.name, self._log, error)
            return 0


def _event_line(line: bytes, position: int) -> EventLine | None:
    """A whole line as plain JSON has it (no NaN); None for what stays in the log, or was torn."""
    try:
        event = json.loads(line, parse_constant=lambda _: None)
        return None if event["event"] in NOT_SHIPPED else EventLine(position=position, event=event)
    except (ValueError, KeyError, TypeError):
        return None

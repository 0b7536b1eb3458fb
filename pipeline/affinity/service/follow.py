"""Following an experiment folder: what its runs log is seen as they log it, without anybody pushing anything.

A run is a folder `<experiment>/arms/<name>` with `run.json` and `events-rank0.jsonl`. Logs are read when somebody asks
and only where they have grown; of a log only the places of the shown lines are kept in memory.

Resumes: the events are passed on as they stand in the log, so what a resume made void is among them, and the `resume`
itself; `/v1/runs/{run}/timeline` gives what counts (`pipeline.runlog.events.effective_events`). A log that was started
anew (it is shorter than it was, or begins otherwise) is read again from its beginning.
"""

from __future__ import annotations

import bisect
import json
import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.affinity.records import EventLine, Name, RunRecord, safe_name
from pipeline.affinity.service.json_values import finite
from pipeline.affinity.service.schemas import EventPage

LOG_NAME = "events-rank0.jsonl"
# Kinds that are passed on; the others come with every step or example, and no curve is drawn from them.
SHOWN = frozenset({"eval", "stage", "decision", "sketch", "resume", "checkpoint"})
MAX_PAGE_BYTES = 8 * 2**20

_KIND = re.compile(rb'\s*\{\s*"event":\s*"(\w+)"')  # how EventLog begins a line
_HEAD_BYTES = 256

_LOG = logging.getLogger("pipeline.affinity.service")


class RunFile(BaseModel):
    """What is used of a run's `run.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    arm: Name
    seed: int
    data_digests: dict[Name, str]
    config_digest: str = ""
    status: str | None = None
    started: float | None = None
    finished: float | None = None
    stop_reason: str | None = None
    affinity_version: str | None = None


@dataclass(frozen=True)
class FollowedRun:
    """A run as its folder shows it; `updated` is when its log last grew, in seconds since 1970."""

    record: RunRecord
    file: RunFile
    log: LogIndex
    updated: float | None


class LogIndex:
    """Where the shown lines of a growing log stand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._forget()

    def read(self, after: int, limit: int) -> EventPage:
        """At most `limit` shown events whose lines end after byte `after`; fewer when they are very long.

        What follows the last newline is still being written and waits.
        """
        with self._lock:
            if not self.path.is_file():
                self._forget()
                return EventPage(events=[], position=0)
            with open(self.path, "rb") as file:
                self._refresh(file)
                return self._page(file, after, limit)

    def _forget(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._position = 0
        self._head = b""

    def _refresh(self, file: BinaryIO) -> None:
        head = file.read(_HEAD_BYTES)
        if not head.startswith(self._head) or file.seek(0, os.SEEK_END) < self._position:
            self._forget()
        self._head = head
        for start, line in _whole_lines(file, self._position):
            self._position = start + len(line)
            if _kind(line) in SHOWN:
                self._starts.append(start)
                self._ends.append(self._position)

    def _page(self, file: BinaryIO, after: int, limit: int) -> EventPage:
        if after > self._position:
            return EventPage(events=[], position=0)
        events: list[EventLine] = []
        first = bisect.bisect_right(self._ends, after)
        size = 0
        for start, end in zip(self._starts[first:], self._ends[first:], strict=True):
            if len(events) == limit or size > MAX_PAGE_BYTES:
                return EventPage(events=events, position=events[-1].position)
            file.seek(start)
            event = _event(file.read(end - start))
            if event is not None:
                events.append(EventLine(position=end, event=event))
                size += end - start
        return EventPage(events=events, position=self._position)


class Follower:
    """The runs of one experiment folder.

    Args:
        experiment: the folder; it need not hold any run yet.
    """

    def __init__(self, experiment: Path) -> None:
        self._arms = experiment / "arms"
        self._project = safe_name(experiment.resolve().name)
        self._logs: dict[Path, LogIndex] = {}
        self._files: dict[Path, tuple[tuple[int, int], RunFile]] = {}
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def runs(self) -> list[FollowedRun]:
        """All runs whose `run.json` can be read, oldest first; for others the service's log says why not, once."""
        with self._lock:
            found = [self._run(path) for path in sorted(self._arms.glob("*/run.json"))]
        return sorted((run for run in found if run is not None), key=lambda run: run.file.started or 0.0)

    def _run(self, path: Path) -> FollowedRun | None:
        try:
            file = self._read(path)
            record = RunRecord(
                name=safe_name(f"{self._project}-{path.parent.name}"),
                project=self._project,
                arm=file.arm,
                seed=file.seed,
                datasets=tuple(sorted(file.data_digests)),
                config_digest=file.config_digest,
            )
        except (OSError, ValidationError) as error:
            if str(path) not in self._said:
                self._said.add(str(path))
                _LOG.warning("a run is not followed, because %s cannot be used: %s", path, error)
            return None
        log = path.with_name(LOG_NAME)
        index = self._logs.setdefault(log, LogIndex(log))
        return FollowedRun(record=record, file=file, log=index, updated=_changed(log))

    def _read(self, path: Path) -> RunFile:
        status = path.stat()
        state = (status.st_mtime_ns, status.st_size)
        known = self._files.get(path)
        if known is None or known[0] != state:
            known = self._files[path] = (state, RunFile.model_validate_json(path.read_bytes()))
        return known[1]


def shown(lines: Iterable[EventLine]) -> list[EventLine]:
    """Those of pushed events that a followed log would show."""
    return [line for line in lines if line.event.get("event") in SHOWN]


def _whole_lines(file: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
    """Lines from byte `start` on with where they begin; a last one without its newline is left out."""
    file.seek(start)
    for line in file:
        if not line.endswith(b"\n"):
            return
        yield start, line
        start += len(line)


def _kind(line: bytes) -> str | None:
    """The kind of event a line holds; None for no event."""
    match = _KIND.match(line)
    if match is not None:
        return match[1].decode("ascii", "replace")
    event = _event(line)
    return None if event is None else event["event"]


def _event(line: bytes) -> dict[str, Any] | None:
    """The event in a line; None when a crash tore it."""
    try:
        event = finite(json.loads(line))
        return event if isinstance(event["event"], str) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None

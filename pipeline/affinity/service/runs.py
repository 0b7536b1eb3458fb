"""Runs that were pushed and runs that are followed, as one list under one set of names.

A run that is both is one entry: its record is the pushed one, and its events are those of its log, which is ahead of
what was pushed. Positions are the same in both, because jobs push a log's lines with the places where they end.
"""

from __future__ import annotations

from typing import Protocol

from pipeline.affinity.records import EventLine, RunStatus
from pipeline.affinity.service.follow import FollowedRun, Follower, shown
from pipeline.affinity.service.schemas import EventPage, RunView, Timeline
from pipeline.affinity.service.timeline import Timelines
from pipeline.errors import MissingError, did_you_mean

PAGE_EVENTS = 1000


class HasRuns(Protocol):
    """What is asked of the store."""

    def runs(self) -> list[RunStatus]: ...

    def run(self, name: str) -> RunStatus:
        """One run; raises MissingError."""
        ...

    def events(self, run: str, after: int, limit: int) -> list[EventLine]:
        """At most `limit` stored events of a run that end after byte `after` of its log, in order."""
        ...


class RunBook:
    """All runs of a service."""

    def __init__(self, store: HasRuns, follower: Follower | None) -> None:
        self._store = store
        self._follower = follower
        self._timelines = Timelines()

    def views(self) -> list[RunView]:
        """All runs, stored ones first, each kind oldest first."""
        waiting = self._followed()
        views = []
        for status in self._store.runs():
            same = next((run for run in waiting if _is_same(status, run)), None)
            waiting = [run for run in waiting if run is not same]
            views.append(_view(status, same))
        return views + [_view(None, run) for run in waiting]

    def view(self, run: str) -> RunView:
        return _view(*self._find(run))

    def events(self, run: str, after: int, limit: int) -> EventPage:
        """At most `limit` shown events after byte `after` of the run's log."""
        return self._page(self._find(run), after, limit)

    def timeline(self, run: str) -> Timeline:
        found = self._find(run)
        return self._timelines.of(run, lambda after: self._page(found, after, PAGE_EVENTS))

    def _page(self, found: tuple[RunStatus | None, FollowedRun | None], after: int, limit: int) -> EventPage:
        status, followed = found
        if followed is not None:
            return followed.log.read(after, limit)
        assert status is not None
        lines = self._store.events(status.run.name, after, limit)
        if lines:
            return EventPage(events=shown(lines), position=lines[-1].position)
        return EventPage(events=[], position=min(after, self._store.run(status.run.name).events))

    def _find(self, run: str) -> tuple[RunStatus | None, FollowedRun | None]:
        """The stored and the followed side of a run; one of them is there.

        Raises:
            MissingError: no such run.
        """
        try:
            status = self._store.run(run)
        except MissingError:
            followed = self._followed()
            for each in followed:
                if each.record.name == run:
                    return None, each
            known = [each.record.name for each in followed] + [each.run.name for each in self._store.runs()]
            raise MissingError("no such run", got=run, hint=did_you_mean(run, known)) from None
        return status, next((each for each in self._followed() if _is_same(status, each)), None)

    def _followed(self) -> list[FollowedRun]:
        return self._follower.runs() if self._follower else []


def _is_same(status: RunStatus, followed: FollowedRun) -> bool:
    """Whether a pushed and a followed run are one: by name, or by recipe where the job uses another project name."""
    pushed, seen = status.run, followed.record
    if pushed.name == seen.name:
        return True
    return bool(seen.config_digest) and (pushed.arm, pushed.seed, pushed.config_digest) == (
        seen.arm,
        seen.seed,
        seen.config_digest,
    )


def _view(status: RunStatus | None, followed: FollowedRun | None) -> RunView:
    fields: dict[str, object] = {}
    if followed is not None:
        file = followed.file
        fields |= {
            "run": followed.record,
            "followed": True,
            "status": file.status,
            "started": file.started,
            "finished": file.finished,
            "updated": followed.updated,
            "stop_reason": file.stop_reason,
            "affinity_version": file.affinity_version,
        }
    if status is not None:
        fields |= {
            "run": status.run,
            "stored": True,
            "declared": status.declared,
            "events": status.events,
            "probes": status.probes,
        }
    return RunView.model_validate(fields)

"""Progress of a preparation: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from data_prep.planning.plan import Plan
from data_prep.planning.task import ShardDone, ShardTask

_LINE_EVERY_S = 5.0


class PrepareProgress:
    """Counts clips as shards end: rate, time that remains, clips per state. Use as a context manager.

    The total is of clips to decode; the states have those refused by the plan too. Shards kept from an earlier run are
    counted as done, but not in the rate.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._states: Counter[str] = Counter()
        self._share: set[str] = set()
        self._total = self._done = self._written = 0
        self._start_s = self._line_s = time.monotonic()
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("clips"),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("planning", total=None)

    def __enter__(self) -> PrepareProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def reading(self, dataset: str, n_clips: int) -> None:
        """So many clips of a dataset's annotations have been read."""
        text = f"planning {dataset}: {n_clips} clips"
        self._bar.update(self._task, description=text)
        self._print_now_and_then(text)

    def planned(self, plans: Sequence[Plan], share: Sequence[ShardTask]) -> None:
        """The work is known: `share` are the shards of `plans` that this process writes."""
        self._share = {task.name for task in share}
        self._total = sum(task.n_clips for task in share)
        self._states["ok"] = 0
        for plan in plans:
            self._states.update(plan.record.states)
        self._start_s = time.monotonic()
        self._bar.update(self._task, total=self._total)

    def shard_done(self, task: ShardTask, done: ShardDone, kept: bool) -> None:
        """Count one shard's clips by state; `kept` tells that it was there already and was not written."""
        if task.name not in self._share:
            return
        self._done += task.n_clips
        self._written += 0 if kept else task.n_clips
        self._states.update(done.states)
        self._bar.update(self._task, completed=self._done, description=self._summary())
        self._print_now_and_then(f"{self._done}/{self._total} clips, {self._summary()}", self._done == self._total)

    def _print_now_and_then(self, text: str, is_last: bool = False) -> None:
        """A line every few seconds where there is no terminal to draw a bar on."""
        now_s = time.monotonic()
        if not self._console.is_terminal and (is_last or now_s - self._line_s >= _LINE_EVERY_S):
            self._line_s = now_s
            self._console.print(text, highlight=False)

    def _summary(self) -> str:
        rate = self._written / max(time.monotonic() - self._start_s, 1e-9)
        remaining = f", {(self._total - self._done) / rate:.0f} s remain" if rate and self._done < self._total else ""
        states = " ".join(f"{state} {count}" for state, count in self._states.items())
        return f"{rate:.0f} clips/s{remaining}, {states}"

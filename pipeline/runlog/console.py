"""What a person sees: messages and one progress line, from rank 0 only."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class RunConsole:
    """A progress bar on a terminal; a plain line every `every_s` seconds elsewhere. Silent on ranks above 0."""

    def __init__(self, rank: int, total_steps: int, label: str, every_s: float = 10.0) -> None:
        self._quiet = rank != 0
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._total = total_steps
        self._label = label
        self._every_s = every_s
        self._last = 0.0
        self._started = time.monotonic()
        self._first_step: int | None = None
        self._bar: Progress | None = None
        if not self._quiet and self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(label, total=total_steps, numbers="")
            self._bar.start()

    def say(self, message: str) -> None:
        if not self._quiet:
            self._console.print(message, markup=False)

    def step(self, step: int, **numbers: Any) -> None:
        """Show that `step` is done, with a few numbers beside it."""
        if self._quiet:
            return
        text = " ".join(f"{name} {_short(value)}" for name, value in numbers.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=text)
            return
        now = time.monotonic()
        if self._first_step is None:
            self._first_step = step - 1
        if now - self._last >= self._every_s or step == self._total:
            self._last = now
            rate = (now - self._started) / max(1, step - self._first_step)
            remaining_s = rate * (self._total - step)
            self._console.print(f"{self._label}  step {step}/{self._total}  {text}  about {remaining_s:.0f} s left")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

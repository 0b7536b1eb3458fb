"""Free affinity data: the sketch of every backward of normal training, summed in windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.dist import Comm
from pipeline.sketch.accumulator import SketchWindow
from pipeline.sketch.hooks import GradientSketcher
from pipeline.types import MicroBatch


class SketchRecorder:
    """Feeds a `SketchWindow` from hooks during training; one all-reduce per window, none in between.

    Args:
        summarise: `SketchWindow.export()` of all ranks -> numbers for the log; called when a window closes.
    """

    def __init__(
        self,
        sketcher: GradientSketcher,
        datasets: list[str],
        comm: Comm,
        *,
        window_steps: int,
        summarise: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        self.sketcher = sketcher
        self.window = SketchWindow(datasets, sketcher.groups, sketcher.spec)
        self._comm = comm
        self._window_steps = window_steps
        self._summarise = summarise
        self._backwards = 0

    @contextmanager
    def micro_batch(self, batch: MicroBatch, tokens: int, scale: float) -> Iterator[None]:
        """Sketch the one backward inside the block; every rank runs the same number of blocks."""
        with self.sketcher.micro_batch(scale):
            yield
        key = self._backwards * self._comm.world_size + self._comm.rank
        self._backwards += 1
        self.window.add(batch.dataset, self.sketcher.take(), tokens, key=key)

    def end_of_step(self, step: int) -> dict[str, Any] | None:
        """Close the window when `step` ends it: its numbers over all ranks, else None."""
        if step % self._window_steps:
            return None
        whole = self.window.all_reduce(self._comm)
        self.window.reset()
        return self._summarise(whole.export())

    def state_dict(self) -> dict[str, Any]:
        """This rank's open window."""
        return {"window": self.window.state_dict(), "backwards": self._backwards}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.window.load_state_dict(state["window"])
        self._backwards = int(state["backwards"])

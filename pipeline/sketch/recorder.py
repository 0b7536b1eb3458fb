"""Free affinity data: sketches taken during normal training, summed in windows.

`SketchRecorder` takes one from every backward by hooks; `PartitionRecorder` one from every optimizer step whose
micro-batches are all of one dataset, from the reduced gradient's slices, at 1/W of the work.

The gradient of a micro-batch whose examples are of several datasets (batches by cluster) is no dataset's: both skip
it, and count it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from pipeline.dist import Comm
from pipeline.errors import SketchError
from pipeline.sketch.accumulator import SketchWindow, mix64, reduce_together
from pipeline.sketch.check import CHECK_GROUP, compare_seeds
from pipeline.sketch.hooks import GradientSketcher
from pipeline.sketch.partition import PartitionSketcher
from pipeline.sketch.redeal import redealt_window
from pipeline.types import GradientPartition, MicroBatch

Sketcher = GradientSketcher | PartitionSketcher
# `SketchWindow.export()` of all ranks and the step that closed the window -> numbers for the log.
Summarise = Callable[[dict[str, Any], int], dict[str, Any]]


class _Windows:
    """What both recorders keep: the open window, its moving average, and the same micro-batches under two seeds.

    Args:
        weigh_by_tokens: a micro-batch counts as many times as it has answer tokens, see `SketchWindow.add`.
        half_life: of the average, in micro-batches of a dataset; None: no average, each window stands alone.
        second: sketcher under another seed; it is used for about one in `second_every` micro-batches.
    """

    def __init__(
        self,
        sketcher: Sketcher,
        datasets: list[str],
        *,
        weigh_by_tokens: bool = False,
        half_life: float | None = None,
        second: Sketcher | None = None,
        second_every: int = 0,
    ) -> None:
        if (second is None) != (second_every == 0):
            raise SketchError("a second sketcher and how often it is used belong together", got=second_every)
        self.window = SketchWindow(datasets, sketcher.groups, sketcher.spec)
        self.average = None if half_life is None else SketchWindow(datasets, sketcher.groups, sketcher.spec)
        both = (sketcher, second) if second else ()
        self.checks = [SketchWindow(datasets, [CHECK_GROUP], each.spec) for each in both]
        self._weigh_by_tokens = weigh_by_tokens
        self._half_life = half_life
        self._second_every = second_every

    def is_checked(self, key: int) -> bool:
        """Whether the micro-batch `key` is sketched under both seeds: the same ones whatever the number of ranks."""
        return bool(self.checks) and mix64(key) % self._second_every == 0

    def add(self, dataset: str, sketch: torch.Tensor, tokens: int, key: int, second: torch.Tensor | None) -> None:
        weight = float(tokens) if self._weigh_by_tokens else 1.0
        self.window.add(dataset, sketch, tokens, weight=weight, key=key)
        if second is not None:
            for check, each in zip(self.checks, (sketch, second), strict=True):
                check.add(dataset, each.sum(0, keepdim=True), tokens, weight=weight, key=key)

    def close(self, comm: Comm | None, step: int, summarise: Summarise) -> dict[str, Any]:
        """Numbers of the window over all ranks (`comm` None: every rank already has them all); then start anew."""
        own = [self.window, *self.checks]
        whole, *checks = own if comm is None else reduce_together(own, comm)
        export = whole.export()
        if self.average is not None:
            assert self._half_life is not None
            self.average.absorb(whole, self._half_life)
            export = {**self.average.export(), "dropped": export["dropped"]}
        numbers = {"micro_batches": int(whole.count.sum()), **summarise(export, step)}
        if checks:
            numbers["second_seed"] = compare_seeds(*checks)
        for each in own:
            each.reset()
        return numbers

    def state_dict(self) -> dict[str, Any]:
        return {
            "window": self.window.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "checks": [check.state_dict() for check in self.checks],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave; SketchError when it is of another form, seed, size or model."""
        if (state["average"] is None) != (self.average is None) or len(state["checks"]) != len(self.checks):
            raise SketchError(
                "a saved recorder has another form of window than this run",
                hint="resume with the recipe that wrote it: sketch.form and sketch.second_seed_every",
            )
        self.window.load_state_dict(state["window"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for check, saved in zip(self.checks, state["checks"], strict=True):
            check.load_state_dict(saved)

    def redealt(self, states: list[dict[str, Any]], rank: int) -> dict[str, Any]:
        """Rank `rank`'s state out of those of another number of ranks; the average is the same on all of them."""
        checks = zip(*(state["checks"] for state in states), strict=True)
        return {
            "window": redealt_window([state["window"] for state in states], rank),
            "average": states[0]["average"],
            "checks": [redealt_window(list(each), rank) for each in checks],
        }


class SketchRecorder:
    """Feeds windows from hooks during training; one all-reduce per window, none in between.

    Args:
        summarise: see `Summarise`; every rank calls it when a window closes.
        options: see `_Windows`.
    """

    def __init__(
        self,
        sketcher: GradientSketcher,
        datasets: list[str],
        comm: Comm,
        *,
        window_steps: int,
        summarise: Summarise,
        second: GradientSketcher | None = None,
        **options: Any,
    ) -> None:
        self.sketcher = sketcher
        self.windows = _Windows(sketcher, datasets, second=second, **options)
        self._second = second
        self._comm = comm
        self._window_steps = window_steps
        self._summarise = summarise
        self._backwards = 0
        self._mixed = 0  # micro-batches of the open window, on this rank, of several datasets

    @contextmanager
    def micro_batch(self, batch: MicroBatch, tokens: int, scale: float) -> Iterator[None]:
        """Sketch the one backward inside the block; every rank runs the same number of blocks."""
        if batch.datasets is not None:
            yield
            self._backwards += 1
            self._mixed += 1
            return
        key = self._backwards * self._comm.world_size + self._comm.rank
        second = self._second if self.windows.is_checked(key) else None
        with self.sketcher.micro_batch(scale), second.micro_batch(scale) if second else nullcontext():
            yield
        self._backwards += 1
        self.windows.add(batch.dataset, self.sketcher.take(), tokens, key, second.take() if second else None)

    def reduced(self) -> None:
        """Nothing: the hooks have seen the gradients before reduction."""

    def end_of_step(self, step: int) -> dict[str, Any] | None:
        """Close the window when `step` ends it: its numbers over all ranks, else None."""
        if step % self._window_steps:
            return None
        numbers = self.windows.close(self._comm, step, self._summarise)
        mixed = int(self._comm.all_reduce_sum(torch.tensor([self._mixed], dtype=torch.float64)))
        self._mixed = 0
        return {**numbers, "mixed": mixed} if mixed else numbers

    def state_dict(self) -> dict[str, Any]:
        """This rank's open window, and what all ranks have in common."""
        return {"windows": self.windows.state_dict(), "backwards": self._backwards, "mixed": self._mixed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.windows.load_state_dict(state["windows"])
        self._backwards = int(state["backwards"])
        self._mixed = int(state.get("mixed", 0))

    def redealt(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """This rank's state out of those of another number of ranks: the open window is on the first one from now on.

        Micro-batches are numbered over all ranks, so the numbers go on where they were.
        """
        rank, backwards = self._comm.rank, sum(int(state["backwards"]) for state in states)
        assert backwards % self._comm.world_size == 0, "ranks run equally many micro-batches"
        return {
            "windows": self.windows.redealt([state["windows"] for state in states], rank),
            "backwards": backwards // self._comm.world_size,
            "mixed": 0 if rank else sum(int(state.get("mixed", 0)) for state in states),
        }


class PartitionRecorder:
    """Feeds windows from reduced gradients: the counterpart of one hook sketch per micro-batch is one per step.

    A step counts only if all its micro-batches, on all ranks, are of one dataset; others are skipped and counted. Each
    step costs one all-reduce of 2D numbers, which decides that, and each window one of its steps' sketches; until
    then a rank keeps its part of them (4GK bytes for each step that counts).

    Args:
        partitions: this rank's slices of the reduced gradients; None where they cannot be sketched yet (Adam's second
            moments before the first step).
        summarise, options: as for `SketchRecorder`.
    """

    def __init__(
        self,
        sketcher: PartitionSketcher,
        datasets: list[str],
        comm: Comm,
        *,
        partitions: Callable[[], Iterable[GradientPartition] | None],
        window_steps: int,
        summarise: Summarise,
        second: PartitionSketcher | None = None,
        **options: Any,
    ) -> None:
        self.sketcher = sketcher
        self.windows = _Windows(sketcher, datasets, second=second, **options)
        self._datasets = list(datasets)
        self._second = second
        self._comm = comm
        self._partitions = partitions
        self._window_steps = window_steps
        self._summarise = summarise
        self._steps = 0
        self._ran = torch.zeros(2, len(datasets), dtype=torch.float64)  # micro-batches and tokens of the open step
        self._start_window()

    def _start_window(self) -> None:
        self._pending: list[tuple[int, int, int]] = []  # dataset, tokens, key of the steps that count
        self._parts: list[torch.Tensor] = []  # ... and this rank's part of their sketches, [G, K] or [G + 1, K]
        self._skipped = {"mixed": 0, "without_second_moment": 0}

    @contextmanager
    def micro_batch(self, batch: MicroBatch, tokens: int, scale: float) -> Iterator[None]:
        """Note what ran; nothing is sketched before the reduction."""
        yield
        for name in set(batch.datasets or (batch.dataset,)):  # several: the step counts as mixed, whatever the numbers
            self._ran[:, self._datasets.index(name)] += torch.tensor([1.0, tokens], dtype=torch.float64)

    def reduced(self) -> None:
        """Sketch this rank's slices if the step is of one dataset; every rank calls it, before the optimizer steps."""
        counts, tokens = self._comm.all_reduce_sum(self._ran)
        key, self._ran = self._steps, torch.zeros_like(self._ran)
        self._steps += 1
        if int((counts > 0).sum()) != 1:
            self._skipped["mixed"] += 1
            return
        partitions = self._partitions()
        if partitions is None:
            self._skipped["without_second_moment"] += 1
            return
        dataset = int(counts.argmax())
        partitions = list(partitions)
        part = self.sketcher.sketch(partitions)
        if self._second is not None and self.windows.is_checked(key):
            part = torch.cat([part, self._second.sketch(partitions).sum(0, keepdim=True)])
        self._parts.append(part.cpu())
        self._pending.append((dataset, int(tokens[dataset]), key))

    def end_of_step(self, step: int) -> dict[str, Any] | None:
        """Close the window when `step` ends it: its numbers over all ranks, else None."""
        if step % self._window_steps:
            return None
        if self._parts:
            whole = self._comm.all_reduce_sum(torch.cat(self._parts))
            sizes = [len(part) for part in self._parts]
            for sketch, (dataset, tokens, key) in zip(whole.split(sizes), self._pending, strict=True):
                groups = len(self.sketcher.groups)
                second = sketch[groups:] if len(sketch) > groups else None
                self.windows.add(self._datasets[dataset], sketch[:groups], tokens, key, second)
        numbers = self.windows.close(None, step, self._summarise)
        numbers["steps"] = {"sketched": len(self._pending), **self._skipped}
        if self._skipped["mixed"] and not self._pending:
            numbers["note"] = (
                f"no step of this window was of one dataset alone ({self._skipped['mixed']} mixed), so there is no "
                "sketch; sketch.mode=hook needs no such steps"
            )
        self._start_window()
        return numbers

    def state_dict(self) -> dict[str, Any]:
        """This rank's part of the open window, and what all ranks have in common."""
        return {
            "windows": self.windows.state_dict(),
            "steps": self._steps,
            "pending": list(self._pending),
            "parts": list(self._parts),
            "skipped": dict(self._skipped),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.windows.load_state_dict(state["windows"])
        self._steps = int(state["steps"])
        self._pending = [(int(dataset), int(tokens), int(key)) for dataset, tokens, key in state["pending"]]
        self._parts = list(state["parts"])
        self._skipped = dict(state["skipped"])

    def redealt(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """This rank's state out of those of another number of ranks: what these had sketched is on the first one."""
        parts = [sum(each) for each in zip(*(state["parts"] for state in states), strict=True)]
        rank = self._comm.rank
        return {
            **states[0],
            "windows": self.windows.redealt([state["windows"] for state in states], rank),
            "parts": [torch.zeros_like(part) for part in parts] if rank else parts,
        }

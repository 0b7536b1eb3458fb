"""What a training of `gst bench resume` has logged, over all its starts, and how two of them differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.runlog.events import read_event_lines

SAMPLES = "samples"  # the event that the workers add: one rank's micro-batches of a step
DECISIONS = ("decision", "gradient_decision", "stage")

Slot = tuple[int, int]  # step, and number of the micro-batch among those of all ranks
Micro = tuple[str, tuple[str, ...]]  # dataset, example ids


class RunLog:
    """The logs of all ranks in a run's folder, as they are now.

    Args:
        ranks: of the run; rank r's a-th micro-batch of a step stands at slot a * ranks + r.
    """

    def __init__(self, folder: Path, ranks: int) -> None:
        self._folder = folder
        self._events = [read_event_lines(folder / f"events-rank{rank}.jsonl")[0] for rank in range(ranks)]

    @property
    def n_lines(self) -> int:
        """Micro-batches loaded, repeated ones too."""
        return sum(1 for _ in self._samples())

    @property
    def n_distinct(self) -> int:
        return len({slot for slot, _ in self._samples()})

    @property
    def first_step_s(self) -> float:
        """When the first step began to train."""
        return min(float(event["t"]) for event in self._events[0] if event["event"] == SAMPLES)

    @property
    def last_step_s(self) -> float:
        return max(float(event["t"]) for event in self._events[0] if event["event"] == SAMPLES)

    @cached_property
    def _planned(self) -> dict[Slot, Micro]:
        return dict(self._samples())

    def samples_differing(self, whole: RunLog) -> int:
        """Micro-batches of this run, each time they were loaded, that are not `whole`'s, and those that are missing."""
        wrong = sum(micro != whole._planned.get(slot) for slot, micro in self._samples())
        return wrong + len(whole._planned.keys() - self._planned.keys())

    def samples_differing_after(self, step: int, other: RunLog) -> tuple[int, int]:
        """How many of this run's micro-batches after `step` are not `other`'s, and how many there are."""
        mine = {slot: micro for slot, micro in self._planned.items() if slot[0] > step}
        theirs = {slot: micro for slot, micro in other._planned.items() if slot[0] > step}
        return sum(mine.get(slot) != theirs.get(slot) for slot in mine.keys() | theirs.keys()), len(mine)

    def loss_difference(self, whole: RunLog) -> float:
        """The largest over all losses ever logged; infinite when one is missing or is no loss of `whole`'s."""
        planned = dict(whole._losses())
        if planned.keys() != dict(self._losses()).keys():
            return float("inf")
        return max(abs(loss - planned[key]) for key, loss in self._losses())

    def decisions_differing(self, whole: RunLog) -> int:
        """Decisions that were ever taken otherwise than in `whole`, or that are missing."""
        planned, mine = whole._decisions(), self._decisions()
        return sum(mine.get(key) != planned.get(key) for key in planned.keys() | mine.keys())

    def _samples(self) -> Iterator[tuple[Slot, Micro]]:
        ranks = len(self._events)
        for rank, events in enumerate(self._events):
            for event in events:
                if event["event"] == SAMPLES:
                    for number, (dataset, ids) in enumerate(event["batches"]):
                        yield (event["step"], number * ranks + rank), (dataset, tuple(ids))

    def _losses(self) -> Iterator[tuple[tuple[str, int, str], float]]:
        for event in self._events[0]:
            if event["event"] in ("step", "eval"):
                for dataset, score in event["datasets"].items():
                    yield (event["event"], event["step"], dataset), score["loss"]
        result = self._folder / "result.json"
        if result.is_file():
            for dataset, score in json.loads(result.read_text())["datasets"].items():
                yield ("test", 0, dataset), score["loss"]

    def _decisions(self) -> dict[tuple[str, int], list[dict[str, Any]]]:
        """Kind and step -> what was decided, each different version once."""
        found: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for event in self._events[0]:
            if event["event"] in DECISIONS:
                versions = found.setdefault((event["event"], event["step"]), [])
                said = {key: value for key, value in event.items() if key != "t"}
                if said not in versions:
                    versions.append(said)
        return found

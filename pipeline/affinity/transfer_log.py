"""`<out>/transfer/results.jsonl`: what short trainings did, one line each, written as soon as it is known.

The first line says what all were done with; every further one holds a training's validation losses and its cost. The
line that was trained on nothing holds the losses of the base. The file is replaced whole, so it never ends in half a
line, and whoever starts `gst transfer` again goes on with the first training that is not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.affinity.transfer import Trainings, TransferResults, planned_trainings
from pipeline.atomic import write_atomic
from pipeline.errors import AffinityError

FILE = "results.jsonl"
BASE: tuple[str, ...] = ()  # what the base was trained on after the warm-up: nothing


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TransferHeader(_Line):
    """What all trainings of a file have in common; `source` is the digest of recipe, base model and data."""

    format: Literal[1] = 1
    source: str
    datasets: tuple[str, ...]
    trainings: Trainings
    steps: int


class TransferLine(_Line):
    """One training: on which datasets (equal shares), which repeat, the losses after it, what it took."""

    trained_on: tuple[str, ...]
    repeat: Annotated[int, Field(ge=0)] = 0
    losses: dict[str, float]
    cost: dict[str, float]

    @property
    def key(self) -> tuple[tuple[str, ...], int]:
        return self.trained_on, self.repeat


@dataclass
class TransferLog:
    """The trainings that are done, in memory and in `folder`."""

    folder: Path
    header: TransferHeader
    lines: list[TransferLine] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.folder / FILE

    def save(self) -> None:
        """Write the whole file; it is small beside what a single training costs."""
        rows = [self.header, *self.lines]
        write_atomic(self.path, "".join(f"{row.model_dump_json()}\n" for row in rows).encode())

    def append(self, line: TransferLine) -> None:
        """Add one result; it is on disk when this returns."""
        self.lines.append(line)
        self.save()

    def find(self, trained_on: tuple[str, ...], repeat: int = 0) -> TransferLine | None:
        return next((line for line in self.lines if line.key == (trained_on, repeat)), None)

    def to_do(self, repeats: int) -> list[tuple[tuple[str, ...], int]]:
        """The trainings of `repeats` repeats that are not done, as datasets and repeat, in the order to do them."""
        planned = planned_trainings(list(self.header.datasets), self.header.trainings)
        done = {line.key for line in self.lines}
        return [(names, repeat) for repeat in range(repeats) for names in planned if (names, repeat) not in done]

    def is_complete(self, repeats: int) -> bool:
        return self.find(BASE) is not None and not self.to_do(repeats)

    def results(self, repeats: int) -> TransferResults:
        """The losses of the first `repeats` repeats as arrays; costs are summed over all sessions.

        Raises:
            AffinityError: not all of their trainings are done, or a line lacks a loss.
        """
        names = list(self.header.datasets)
        if not self.is_complete(repeats):
            planned = repeats * len(planned_trainings(names, self.header.trainings))
            raise AffinityError(
                "the short trainings are not all done",
                where={"file": self.path},
                got=f"{planned - len(self.to_do(repeats))} of {planned}",
                hint="run `gst transfer` with this recipe: it goes on where it stopped",
            )
        row = {name: i for i, name in enumerate(names)}
        base, after = np.full(len(names), np.nan), np.full((repeats, len(names), len(names)), np.nan)
        used = [line for line in self.lines if line.repeat < repeats]
        for line in used:
            for scored, loss in self._known(line):
                if line.trained_on == BASE:
                    base[row[scored]] = loss
                    continue
                # In a pair, what was scored belongs beside the other one; alone, beside the only one.
                other = next((name for name in line.trained_on if name != scored), line.trained_on[0])
                after[line.repeat, row[other], row[scored]] = loss
        cost: dict[str, float] = {}
        for line in used:
            for name, value in line.cost.items():
                cost[name] = cost.get(name, 0) + value
        return TransferResults(
            datasets=names,
            trainings=self.header.trainings,
            base=np.tile(base, (repeats, 1)),
            after=after,
            steps=self.header.steps,
            cost={**cost, "trainings": len(used) - 1},
            source=self.header.source,
        )

    def _known(self, line: TransferLine) -> Sequence[tuple[str, float]]:
        """The losses of a line, which must be of datasets that the header names."""
        unknown = sorted({*line.losses, *line.trained_on} - set(self.header.datasets))
        if unknown:
            raise AffinityError(
                "a result of another dataset", where={"file": self.path}, got=", ".join(unknown), hint=_AGAIN
            )
        return list(line.losses.items())


_AGAIN = "delete the file and run `gst transfer` again"


def read_log(folder: Path) -> TransferLog | None:
    """The log in `folder`; None without one.

    Raises:
        AffinityError: a file that is damaged or was changed by hand.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        first, *rest = path.read_text(encoding="utf-8").splitlines()
        header = TransferHeader.model_validate_json(first)
        return TransferLog(folder, header, [TransferLine.model_validate_json(line) for line in rest])
    except (ValueError, ValidationError) as error:
        raise AffinityError(
            "the results of short trainings cannot be read",
            where={"file": path},
            got=str(error).splitlines()[0],
            hint=_AGAIN,
        ) from None


def open_log(folder: Path, header: TransferHeader) -> tuple[TransferLog, Path | None]:
    """The log of exactly these trainings, empty if there is none; one of other trainings is set aside until it is
    wanted again.

    Returns:
        The log, and where another one was moved to, if there was one.
    """
    found = read_log(folder)
    if found is not None and found.header == header:
        return found, None
    folder.mkdir(parents=True, exist_ok=True)
    aside = None
    if found is not None:
        aside = _set_aside(folder, found.header)
        found.path.replace(aside)
    earlier = _set_aside(folder, header)
    if earlier.exists():
        earlier.replace(folder / FILE)
        return open_log(folder, header)[0], aside
    log = TransferLog(folder, header)
    log.save()
    return log, aside


def _set_aside(folder: Path, header: TransferHeader) -> Path:
    return folder / f"results-{header.source[:12]}.jsonl"

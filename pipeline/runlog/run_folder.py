"""What a run's folder says about the run: the one source of everything that MLflow is told."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.atomic import sync_folder
from pipeline.config import Recipe
from pipeline.config.grid import GRID_FILE
from pipeline.runlog.events import effective_events, read_event_lines
from pipeline.runlog.metrics import metrics_of

ID_FILE = "mlflow.id"
ARTIFACTS = ("recipe.yaml", "run.json")
RESULTS = ("result.json", "examples-test.jsonl")  # those of an earlier training until this one has finished


@dataclass(frozen=True)
class Point:
    """One value of one metric; `t_ms` is when the event was written."""

    key: str
    value: float
    t_ms: int
    step: int


@dataclass(frozen=True)
class RunFolder:
    """`<out>/arms/<arm>-s<seed>`, read anew at every question, because a run in progress writes there."""

    path: Path
    recipe: Recipe

    @property
    def info(self) -> dict[str, Any]:
        """`run.json`."""
        return json.loads((self.path / "run.json").read_bytes())

    @property
    def experiment(self) -> Path:
        return self.path.parent.parent

    @property
    def tracking_uri(self) -> str:
        """Where the recipe says that the run is logged."""
        return self.recipe.logging.tracking_uri or default_tracking_uri(self.experiment)

    @property
    def is_finished(self) -> bool:
        return self.info["status"] == "finished" and (self.path / "result.json").exists()

    @property
    def id(self) -> str:
        """Of this training from its first step on: a resume keeps it, `--resume never` begins another."""
        return str(self.info.get("run_id") or derived_id(folder_id(self.experiment), self.path.name))

    def check(self) -> None:
        """KeyError or ValueError unless `run.json` says what a store needs to know."""
        if missing := {"started", "status", "data_digests"} - self.info.keys():
            raise KeyError(f"run.json lacks {', '.join(sorted(missing))}")

    def result(self) -> dict[str, Any] | None:
        """`result.json` as an event; None before the run is finished."""
        if not self.is_finished:
            return None
        info = self.info
        return {**json.loads((self.path / "result.json").read_bytes()), "event": "result", "t": info["finished"]}

    def points(self) -> Iterator[Point]:
        """All metrics of the run, in the order of their events."""
        events = effective_events(read_event_lines(self.path / "events-rank0.jsonl")[0])
        result = self.result()
        for event in [*events, result] if result else events:
            yield from points_of(event)

    def artifacts(self) -> list[Path]:
        """The files of this training that belong into the store, as far as they are there."""
        names = (*ARTIFACTS, *RESULTS) if self.is_finished else ARTIFACTS
        return [path for name in names if (path := self.path / name).exists()]


def points_of(event: Mapping[str, Any]) -> list[Point]:
    """The metrics of one event, at its global optimizer step and its own time."""
    t_ms = round(event["t"] * 1000)
    return [Point(key, value, t_ms, event["step"]) for key, value in metrics_of(event).items()]


def folder_id(folder: Path) -> str:
    """What an experiment (or grid) is called in any tracking store; made at the first call, moved with the folder.

    Two folders of one name, on one machine or two, are two experiments. Of several processes that call this first, one
    makes the name and all read it.
    """
    file = folder / ID_FILE
    if not file.exists():
        temporary = folder / f".{ID_FILE}.{uuid.uuid4().hex}.tmp"
        try:
            temporary.write_text(uuid.uuid4().hex)
            os.link(temporary, file)  # the first one wins, whole
            sync_folder(folder)
        except FileExistsError:
            pass
        finally:
            temporary.unlink(missing_ok=True)
    return file.read_text().strip()


def derived_id(*parts: str) -> str:
    """One name from several."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32]


def is_grid(folder: Path) -> bool:
    """Whether `folder` holds studies, each an experiment folder."""
    return (folder / GRID_FILE).is_file()


def grid_folder(experiment: Path) -> Path | None:
    """The grid that an experiment folder is a study of; None when it stands alone."""
    parent = experiment.resolve().parent
    return parent if is_grid(parent) else None


def default_tracking_uri(experiment: Path) -> str:
    """The experiment folder's own SQLite store; the studies of a grid share one, in the grid's folder."""
    return f"sqlite:///{store_folder(experiment) / 'mlflow.db'}"


def store_folder(experiment: Path) -> Path:
    """Where what a whole grid shares lies: the grid's folder, or that of an experiment which stands alone."""
    return grid_folder(experiment) or experiment.resolve()

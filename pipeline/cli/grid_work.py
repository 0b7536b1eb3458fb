"""What a grid's tasks are made of: their commands, what their results depend on, what is computed in place."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.atomic import write_atomic
from pipeline.cli.agreement import write_agreement
from pipeline.cli.code_digest import code_digest
from pipeline.cli.group import make_version
from pipeline.cli.launch import launch_command
from pipeline.cli.probe import NOT_PROBED
from pipeline.cli.session import Data, digest_of
from pipeline.cli.transfer import IRRELEVANT
from pipeline.config import Recipe, recipe_digest, run_folder
from pipeline.config.grid import GRID_FILE, GridSpec, dump_grid, load_grid
from pipeline.data.stores import open_store
from pipeline.errors import AffinityError, TrainingError
from pipeline.grid.estimate import Forecast, Speed, measure
from pipeline.grid.ledger import Ledger
from pipeline.grid.runner import run_command, tail_of
from pipeline.grid.search import choose
from pipeline.grid.tasks import ADAM, Task, group_task, recipe_arguments, resolve
from pipeline.models.exported import base_digest

MODULES = {"search": "train", "train": "train", "probe": "probe", "transfer": "transfer", "score": "evaluate"}
CALIBRATION = ("train.max_steps=6", "train.eval_every=3", "train.lr_schedule.warmup_steps=2", "logging.mlflow=false")
# Recipe sections whose change leaves a result as it is.
UNRELATED = {
    "probe": NOT_PROBED,
    "transfer": IRRELEVANT,
    "group": tuple(name for name in Recipe.model_fields if name != "affinity"),
}


class GridWork:
    """The tasks of the grid in `out`, as `pipeline.grid.runner.Work` wants them."""

    def __init__(
        self, out: Path, tasks: Iterable[Task], ledger: Ledger, *, ranks: int = 2, launcher: str | None = None
    ) -> None:
        self.out, self.ledger, self.ranks, self.launcher = out, ledger, ranks, launcher
        self.tasks = {task.name: task for task in tasks}
        self.code = code_digest()
        self._digests: dict[str, object] = {}

    @property
    def grid(self) -> GridSpec:
        """As it is on disk now: another worker may have chosen the tuned settings."""
        return load_grid(self.out)

    def recipe(self, task: Task) -> Recipe:
        """The resolved recipe of a task. Raises what `load_recipe` does."""
        return resolve(self._grid_for(task), task, self.out, self._version(task))

    def datasets(self) -> list[str]:
        """The corpora that the baseline trains on."""
        grid = self.grid
        task = Task("any", "train", "any", grid.baseline, recipe=grid.arms[grid.baseline].recipe)
        return Data(self.recipe(task)).datasets

    def key(self, task: Task) -> str:
        """Digest of the recipe as far as it matters, of data and base model, and of what came before."""
        before = [record.key for name in task.needs if (record := self.ledger.record(name))]
        if not task.recipe:
            return digest_of([task.name, self.grid.search.model_dump(mode="json"), before])
        recipe = self.recipe(task)
        ignored = UNRELATED.get(task.kind, ("out", "logging", "service"))
        parts = [task.name, recipe_digest(recipe, ignore=ignored)]
        if task.is_run:
            return digest_of([*parts, self._data_digests(recipe), self._base_digest(recipe.model.path)])
        return digest_of([*parts, before])

    def command(self, task: Task, *, again: bool) -> list[str]:
        """The launcher's command line. Raises what `launch_command` does."""
        name, overrides = recipe_arguments(self._grid_for(task), task, self.out, self._version(task))
        resume = ["--resume", "never"] if again and MODULES[task.kind] == "train" else []
        module = f"pipeline.cli.{MODULES[task.kind]}"
        return launch_command(module, ["-c", name, *overrides, *resume], self.ranks, self.launcher)

    def compute(self, task: Task) -> str:
        """Choose, group or compare, here; the name of the version for `group`."""
        if task.kind == "choose":
            grid = self.grid
            tuned = choose(grid, self.out)
            write_atomic(self.out / GRID_FILE, dump_grid(grid.model_copy(update={"tuned": tuned})).encode())
            return ", ".join(f"{axis}: {name}" for axis, name in tuned.chosen.items())
        recipe = self.recipe(task)
        if task.kind == "group":
            return make_version(recipe).id
        assert task.kind == "agreement"
        return str(write_agreement(recipe, *self._other_ways(task)))

    def _grid_for(self, task: Task) -> GridSpec:
        """The grid with what the search had found before this task."""
        grid = self.grid
        if task.kind != "search":
            return grid
        return grid.model_copy(update={"tuned": choose(grid, self.out, before=task.axis)})

    def _version(self, task: Task) -> str | None:
        """The affinity version that a run's groups come from."""
        source = group_task(task.study, task.recipe)
        if task.kind != "train" or source not in task.needs:
            return None
        record = self.ledger.record(source)
        if record is None or not record.value:
            raise AffinityError("the groups of this run are not made yet", where={"task": task.name}, expected=source)
        return record.value

    def _other_ways(self, task: Task) -> tuple[Recipe | None, Recipe | None]:
        """Recipes of the preconditioned probe and of the short trainings, as far as the task needs them."""
        needed = [self.tasks[name] for name in task.needs]
        adam = next((each for each in needed if each.study.endswith(f"-{ADAM}")), None)
        transfer = next((each for each in needed if each.kind == "transfer"), None)
        return self.recipe(adam) if adam else None, self.recipe(transfer) if transfer else None

    def _data_digests(self, recipe: Recipe) -> object:
        data = recipe.data
        key = f"{data.shards} {data.datasets}"
        if key not in self._digests:
            found = open_store(data.shards, data.cache).manifests(data.datasets)
            self._digests[key] = {name: each.digest for name, each in found.items()}
        return self._digests[key]

    def _base_digest(self, path: str) -> object:
        if path not in self._digests:
            self._digests[path] = base_digest(path)
        return self._digests[path]


def forecast_of(tasks: Sequence[Task], work: GridWork, say: Callable[[str], None]) -> Forecast:
    """How long the tasks take here: by what is done already, and else by one short run, made when there is none.

    Raises:
        TrainingError: the short run fails, as every run would.
    """
    n_datasets, grid = len(work.datasets()), work.grid  # shards that are not there are found before anything runs
    speed = calibrate(work, say)
    prior = {task.name: speed.of(task, resolve(grid, task, work.out), n_datasets) for task in tasks if task.is_run}
    return Forecast(prior)


def calibrate(work: GridWork, say: Callable[[str], None]) -> Speed:
    """Speed of this machine with this grid's settings, from a few steps of the baseline; kept in <out>/speed.json."""
    file = work.out / "speed.json"
    key = digest_of([work.grid.overrides, work.ranks, work.launcher, socket.gethostname()])
    if file.is_file() and (kept := json.loads(file.read_text()))["key"] == key:
        return Speed(**kept["speed"])
    grid = work.grid
    task = Task(
        "calibration", "train", "calibration", grid.baseline, 0, (), grid.arms[grid.baseline].recipe, CALIBRATION
    )
    say("measuring the speed of this machine: a few steps of the baseline")
    launched = time.time()
    log = work.ledger.log(task.name)
    with work.ledger.claim(task.name) as lock:
        if lock is None:
            raise TrainingError("another command is measuring here", where={"log": log}, hint="wait a minute")
        returncode = run_command(work.command(task, again=True), log, lock)
    if returncode:
        raise TrainingError(
            "the first few steps failed", where={"log": log}, got=f"exit code {returncode}\n{tail_of(log)}"
        )
    speed = measure(run_folder(work.recipe(task)), launched)
    write_atomic(file, json.dumps({"key": key, "speed": asdict(speed)}).encode())
    return speed

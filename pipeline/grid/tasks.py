"""A grid as tasks: each a command or a computation that leaves a result, with the tasks that must come before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.config import load_recipe
from pipeline.config.grid import ORIGINAL, ArmSpec, GridSpec
from pipeline.config.schema import Recipe

Kind = Literal["search", "choose", "probe", "transfer", "group", "train", "score", "agreement"]
SEARCH = "tune"  # the study in which the baseline is tuned
ADAM = "adam"  # a probe of preconditioned gradients lies in a folder of its own, `<study>-adam`
CHOOSE = f"{SEARCH}/choose"
GROUPED_REGIMES = ("gst", "gst_strict_cycle", "gst_adaptive", "mastering_rate")
MEASURED = ("gradient", "transferability", "random")  # groupings that take something from an affinity version


@dataclass(frozen=True)
class Task:
    """One piece of the grid.

    Attributes:
        name: unique, `<study>/<what>`; results are recorded under it.
        needs: names of the tasks that must be done before.
        recipe: on the family's; overrides: of this task, without what the search and the grouping find.
        weights_found: whether sampling weights that the search found are used.
        axis: of the search, for kind `search`.
    """

    name: str
    kind: Kind
    study: str
    arm: str = ""
    seed: int = 0
    needs: tuple[str, ...] = ()
    recipe: str = ""
    overrides: tuple[str, ...] = ()
    weights_found: bool = True
    axis: str = ""

    @property
    def is_run(self) -> bool:
        """Whether it starts ranks; the others are computed in this process, in seconds."""
        return self.kind not in ("choose", "group", "agreement")


def build_tasks(grid: GridSpec, only: Sequence[str] = ()) -> list[Task]:
    """All tasks of a grid, each after those that it needs: the search, then each study's probe, groups and runs.

    Args:
        only: tables to make; () for all. The baseline belongs to every one.
    """
    if only:
        grid = grid.model_copy(update={"tables": {key: grid.tables[key] for key in only}})
    tasks = _search(grid)
    start = (CHOOSE,) if tasks else ()
    for study in dict.fromkeys(table.study for table in grid.tables.values()):
        tasks += _study(grid, study, start)
    if grid.agreement and "T5" in grid.tables:
        tasks += _agreement(grid, grid.agreement, start, {task.name for task in tasks})
    return tasks


def resolve(grid: GridSpec, task: Task, out: Path, version: str | None = None) -> Recipe:
    """The recipe of a task that starts ranks or makes groups. Raises what `load_recipe` does."""
    return load_recipe(*recipe_arguments(grid, task, out, version))


def recipe_arguments(grid: GridSpec, task: Task, out: Path, version: str | None = None) -> tuple[str, list[str]]:
    """`-c` and the overrides of a task's command.

    Args:
        grid: with what the search has found before this task.
        version: affinity version that the run's groups come from, pinned.
    """
    found = (*grid.tuned.overrides, *(grid.tuned.weights if task.weights_found else ()))
    overrides = [*found, *grid.overrides, *_study_overrides(grid, task.study), *task.overrides]
    overrides += [f"out={out / task.study}", f"train.seed={task.seed}"]
    if task.kind in ("train", "search"):
        overrides.append(f"arm={task.arm}")
    if version is not None:
        overrides.append(f"schedule.version={version}")
    return f"{grid.family}:{task.recipe}", overrides


def group_task(study: str, recipe: str) -> str:
    """Name of the task that makes the affinity version for the arms of one recipe."""
    return f"{study}/group-{recipe}"


def _study_overrides(grid: GridSpec, study: str) -> tuple[str, ...]:
    name = study.removesuffix(f"-{ADAM}")
    return grid.studies[name].overrides if name in grid.studies else ()


def _search(grid: GridSpec) -> list[Task]:
    tasks: list[Task] = []
    baseline = _baseline(grid)
    before: tuple[str, ...] = ()
    for number, (axis_name, axis) in enumerate(grid.search.axes.items()):
        names: list[str] = []
        for name, overrides in axis.candidates.items():
            if not overrides and number:
                continue
            arm = f"{axis_name}-{name}"
            names.append(f"{SEARCH}/{arm}")
            tasks.append(
                Task(
                    names[-1], "search", SEARCH, arm, grid.search.seed, before, baseline, overrides, axis=axis_name
                )
            )  # fmt: skip
        before = tuple(names) or before
    if tasks:
        tasks.append(Task(CHOOSE, "choose", SEARCH, needs=tuple(task.name for task in tasks)))
    return tasks


def _study(grid: GridSpec, study: str, start: tuple[str, ...]) -> list[Task]:
    """Probe and short trainings as far as arms need them, the untouched model, groups, then seed by seed every arm."""
    arms = {arm: spec for arm, spec in grid.expanded_arms().items() if arm in grid.study_arms(study)}
    first = {method: arm for arm, spec in reversed(arms.items()) if (method := _method(grid, spec))}
    tasks: list[Task] = []
    sources: dict[str, str] = {}
    if "gradient" in first:
        sources["gradient"] = f"{study}/probe"
        tasks.append(Task(f"{study}/probe", "probe", study, needs=start, recipe=arms[first["gradient"]].recipe))
    if ORIGINAL in grid.study_arms(study):
        tasks.append(Task(f"{study}/{ORIGINAL}", "score", study, ORIGINAL, needs=start, recipe=_baseline(grid)))
    if "transferability" in first:
        sources["transferability"] = f"{study}/transfer"
        recipe = arms[first["transferability"]].recipe
        tasks.append(Task(f"{study}/transfer", "transfer", study, needs=start, recipe=recipe))
    needs: dict[str, tuple[str, ...]] = {}
    for arm, spec in arms.items():
        method = _method(grid, spec)
        needs[arm] = (group_task(study, spec.recipe),) if method else start
        if method and needs[arm][0] not in {task.name for task in tasks}:
            tasks.append(Task(needs[arm][0], "group", study, needs=(sources[method],), recipe=spec.recipe))
    for seed in grid.seeds:
        for arm, spec in arms.items():
            tasks.append(
                Task(
                    f"{study}/{arm}-s{seed}", "train", study, arm, seed, needs[arm], spec.recipe,
                    (f"schedule.seed={seed}", *spec.overrides), not spec.own_weights,
                )
            )  # fmt: skip
    return tasks


def _agreement(grid: GridSpec, study: str, start: tuple[str, ...], known: set[str]) -> list[Task]:
    """Every way to measure affinity on one study's data, for the table that compares them."""
    probe = grid.arms[grid.tables["T5"].arms[0]].recipe
    adam = Task(
        f"{study}-{ADAM}/probe", "probe", f"{study}-{ADAM}", needs=start, recipe=probe,
        overrides=("sketch.gradient=adam", "sketch.mode=partition"),
    )  # fmt: skip
    needs = tuple(name for name in (f"{study}/probe", f"{study}/transfer") if name in known)
    return [adam, Task(f"{study}/agreement", "agreement", study, needs=(*needs, adam.name), recipe=probe)]


def _baseline(grid: GridSpec) -> str:
    return grid.arms[grid.baseline].recipe


def _method(grid: GridSpec, arm: ArmSpec) -> str | None:
    """How the affinity that an arm's groups come from is measured; None where they come from none."""
    recipe = load_recipe(f"{grid.family}:{arm.recipe}", [*grid.overrides, *arm.overrides])
    schedule = recipe.schedule
    if schedule.regime not in GROUPED_REGIMES or schedule.grouping not in MEASURED:
        return None
    return recipe.affinity.method

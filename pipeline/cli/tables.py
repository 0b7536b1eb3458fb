"""`gst tables`: the grid of runs behind the paper's tables, cell by cell, then the tables."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from pipeline.atomic import write_atomic
from pipeline.cli.grid_work import GridWork, forecast_of
from pipeline.cli.launch import prepare_environment
from pipeline.cli.options import Overrides
from pipeline.cli.report import report_grid
from pipeline.config.grid import GRID_FILE, GridSpec, check_family, dump_grid, load_grid, load_scale
from pipeline.errors import ConfigError, TrainingError
from pipeline.grid.ledger import Ledger
from pipeline.grid.runner import Outcome, Runner, words
from pipeline.grid.tasks import Task, build_tasks

# What may change in a grid that has begun: more of the same. The rest would put unlike runs side by side.
MAY_GROW = {"scale", "seeds", "tables", "arms", "agreement", "tuned"}


def tables(
    out: Annotated[Path, typer.Option("--out", help="Folder of the grid.")],
    overrides: Overrides = None,
    family: Annotated[str, typer.Option("-c", "--recipe", help="Recipe that every arm goes on top of.")] = "mini",
    scale: Annotated[
        str | None, typer.Option(help="quick, standard, full, or a YAML file; default: what is in --out, or quick.")
    ] = None,
    ranks: Annotated[int, typer.Option("--ranks", help="Ranks of each run.")] = 2,
    only: Annotated[str, typer.Option(help="Only these tables, such as T1,T4.")] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Say what would run and how long it takes, and stop.")] = False,
    redo: Annotated[bool, typer.Option("--redo", help="Run again what other code has run.")] = False,
    launcher: Annotated[
        str | None, typer.Option(help="Launcher of each run, such as 'deepspeed --hostfile HOSTS'.")
    ] = None,
    sbatch: Annotated[
        int | None, typer.Option(help="Write a SLURM array of so many workers that share the grid, and stop.")
    ] = None,
) -> None:
    """Run what is missing of a grid and write its tables; killed, it goes on where it stopped.

    Any number of these commands may work on one folder at once, on one machine or many.
    """
    prepare_environment()
    grid = open_grid(out, family, scale, overrides or ())
    tasks = build_tasks(grid, wanted_tables(grid, only))
    if sbatch is not None:
        print(write_sbatch(out, sbatch, ranks, only, launcher))
        return
    ledger = Ledger(out)
    work = GridWork(out, tasks, ledger, ranks=ranks, launcher=launcher)
    say(describe(tasks))
    forecast = forecast_of(tasks, work, say)
    say(f"One after the other they take about {words(forecast.total(tasks))} here.")
    if plan:
        return
    outcome = Runner(tasks, ledger, work, forecast, say=say, redo=redo).run()
    try:
        report_grid(out, commands=[f"bash run.sh tables --scale {grid.scale}", f"gst report {out}"])
    finally:
        require_success(outcome, out)


def open_grid(out: Path, family: str, scale: str | None, overrides: list[str] | tuple[str, ...]) -> GridSpec:
    """The grid of the folder, begun or made larger; writes <out>/grid.yaml.

    Raises:
        ConfigError: no such scale or family, or the folder holds a grid with other settings.
    """
    there = load_grid(out) if (out / GRID_FILE).is_file() else None
    if there is not None and scale is None and not overrides:
        return there
    check_family(family)
    grid = load_scale(scale or "quick", family=family, overrides=overrides)
    if there is not None:
        _require_same(there, grid, out)
        grid = grid.model_copy(update={"tuned": there.tuned})
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / GRID_FILE, dump_grid(grid).encode())
    return grid


def _require_same(there: GridSpec, wanted: GridSpec, out: Path) -> None:
    ours, theirs = wanted.model_dump(mode="json"), there.model_dump(mode="json")
    differing = [key for key in ours if key not in MAY_GROW and ours[key] != theirs[key]]
    if differing:
        raise ConfigError(
            "this folder holds a grid with other settings",
            where={"file": out / GRID_FILE, "key": ", ".join(differing)},
            got={key: ours[key] for key in differing},
            expected={key: theirs[key] for key in differing},
            hint="name another --out; seeds, arms and tables may be added to a grid, nothing else",
        )


def wanted_tables(grid: GridSpec, only: str) -> list[str]:
    """Names of tables as the user gave them; ConfigError for one that the grid has not."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in grid.tables]
    if unknown:
        raise ConfigError("no such table", got=", ".join(unknown), expected=", ".join(grid.tables))
    return names


def describe(tasks: list[Task]) -> str:
    """What a grid is, in a line: how many runs of what."""
    kinds = Counter(task.kind for task in tasks if task.is_run)
    names = {
        "search": "to tune the baseline", "probe": "probes", "transfer": "sets of short trainings",
        "train": "trainings", "score": "scorings of the untouched model",
    }  # fmt: skip
    parts = ", ".join(f"{kinds[kind]} {name}" for kind, name in names.items() if kinds[kind])  # type: ignore[index]
    return f"{sum(kinds.values())} runs: {parts}."


def require_success(outcome: Outcome, out: Path) -> None:
    """TrainingError when some task has failed; the tables show its cells as missing."""
    if outcome.failed:
        raise TrainingError(
            f"{len(outcome.failed)} task(s) failed, {len(outcome.blocked)} wait for them",
            where={"logs": out / "tasks"},
            got=", ".join(outcome.failed),
            hint="the same command tries them again",
        )


def write_sbatch(out: Path, workers: int, ranks: int, only: str, launcher: str | None) -> str:
    """A batch script for an array of workers; returns the command that submits it."""
    if workers < 1:
        raise ConfigError("the number of workers must be at least 1", got=workers)
    words_ = [sys.executable, "-m", "pipeline.cli.main", "tables", "--out", str(out.resolve()), "--ranks", str(ranks)]
    words_ += ["--only", only] if only else []
    words_ += ["--launcher", launcher] if launcher else []
    script = out / "workers.sbatch"
    lines = [
        "#!/usr/bin/env bash",
        "# Workers that share one grid; each takes the next task that nobody has. Add your partition, GPUs and time.",
        "#SBATCH --job-name=audio-gst-tables",
        f"#SBATCH --array=0-{workers - 1}",
        "#SBATCH --ntasks=1",
        f"#SBATCH --output={out.resolve()}/worker-%A_%a.log",
        "set -euo pipefail",
        f"cd {shlex.quote(str(Path.cwd()))}",
        f"exec {shlex.join(words_)}",
    ]
    write_atomic(script, ("\n".join(lines) + "\n").encode())
    return f"sbatch {script}"


def say(line: str) -> None:
    print(line, flush=True)

"""`gst train --dry-run`: what a schedule would decide on the loss curves of a finished run, in seconds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.cli.session import Data
from pipeline.config import Recipe
from pipeline.errors import ConfigError
from pipeline.runlog.events import effective_events, read_event_lines
from pipeline.schedule import build_controller
from pipeline.schedule.simulate import Curves, RecordedRun, SimulatedStep, recorded_run, simulate

SHOWN = 4  # digits
LOSSES_ARE = (
    "Losses are read off the recorded run by each dataset's own examples: one that is not drawn stays where it is, "
    "past the record it stays at its last value, and weights that follow gradients do not move."
)


def dry_run(recipe: Recipe, curves: Path | list[Path]) -> list[SimulatedStep]:
    """Simulate the recipe's schedule against recorded curves, and print every decision with its numbers.

    Args:
        curves: `events-rank0.jsonl` of a finished run, or a folder that holds one; of several runs, their mean.

    Raises:
        ConfigError: no evaluations there, or datasets of the recipe that the runs did not have.
    """
    data = Data(recipe)
    plan = data.plan()
    runs = [read_run(path) for path in ([curves] if isinstance(curves, Path) else curves)]
    steps = simulate(build_controller(plan, recipe), plan.names, recipe, Curves(runs))
    show(recipe, steps, Console())
    return steps


def read_run(path: Path) -> RecordedRun:
    """The evaluations of a run's event log, with the examples of each dataset that it had trained on by then."""
    file = path / "events-rank0.jsonl" if path.is_dir() else path
    events = effective_events(read_event_lines(file)[0])
    evaluations = [event for event in events if event["event"] == "eval" and event.get("split") == "val"]
    if len(evaluations) < 2:
        raise ConfigError(
            "no loss curves here",
            where={"file": file},
            got=f"{len(evaluations)} evaluations of the validation split",
            hint="give the events-rank0.jsonl of a finished run",
        )
    return recorded_run(evaluations, [_examples_by(event, events) for event in evaluations])


def show(recipe: Recipe, steps: list[SimulatedStep], console: Console) -> None:
    """The decisions as a table."""
    table = Table(title=f"{recipe.arm}: {recipe.schedule.regime}, simulated", title_justify="left")
    for column in ("step", "tokens", "stage", "rule", "pool", "numbers"):
        table.add_column(column, justify="right" if column in ("step", "tokens", "stage") else "left")
    for each in steps:
        decision = each.decision
        rule = f"[bold]{decision.reason['rule']}[/bold]" if decision.advanced else str(decision.reason["rule"])
        numbers = ", ".join(f"{name} {_short(value)}" for name, value in decision.reason.items() if _is_number(value))
        table.add_row(str(each.step), str(each.tokens), str(decision.stage), rule, str(len(decision.pool)), numbers)
    console.print(table)
    console.print(LOSSES_ARE, markup=False)


def _examples_by(event: dict[str, Any], events: list[dict[str, Any]]) -> Counter[str]:
    """Dataset -> examples trained on up to an evaluation: as counted in the step events.

    Without these (a log that was cut down), as the weights of the stages then in force say.
    """
    done: Counter[str] = Counter()
    stages = [each for each in events if each["event"] == "stage"]
    trained = [each for each in events if each["event"] == "step" and each["step"] <= event["step"]]
    for each in trained:
        done.update({name: numbers["n"] for name, numbers in each["datasets"].items()})
    if trained or not stages:
        return done
    ends = [*(stage["samples"] for stage in stages[1:]), float("inf")]
    for stage, end in zip(stages, ends, strict=True):
        samples = min(event["samples"], end) - stage["samples"]
        done.update({name: weight * max(samples, 0) for name, weight in stage["weights"].items()})
    return done


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.{SHOWN}g}"

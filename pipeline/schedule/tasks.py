"""Task-progressive stages: questions enter by the semantic abstraction of their task, whatever dataset they are of.

After "TPC" of arXiv 2601.12494 (transcription, then dialect and emotion, then summaries). What that paper does not say
is a recipe key: the level of every other task, and whether earlier levels stay in the pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from pipeline.config import Recipe
from pipeline.config.schedule import ScheduleConfig, TpcConfig
from pipeline.errors import ConfigError, did_you_mean
from pipeline.schedule.regimes import clusters
from pipeline.schedule.stages import Stage, StagePlan, dataset_of, pool_weights, unit_name

TaskSizes = Mapping[str, Mapping[str, int]]  # dataset -> task -> train examples

# A dataset's one validation loss covers all its tasks. It says something about a pool that holds most of them.
JUDGED_FROM = 0.5


def needs_tasks(recipe: Recipe) -> bool:
    """Whether the recipe's regime goes by the tasks of questions, so that they must be counted."""
    return recipe.schedule.regime in ("tpc", "tpc_ads")


def by_level(schedule: ScheduleConfig, tasks: TaskSizes) -> StagePlan:
    """tpc: one stage a level, over units `<dataset>@<level>`; levels without any question are left out.

    A stage is judged on the datasets of its pool that have at least half of their training questions in it; on all of
    the pool's datasets when there is none.

    Raises:
        ConfigError: a task that no level declares.
    """
    sizes = unit_sizes(schedule.tpc, tasks)
    stages: list[Stage] = []
    for level in range(len(schedule.tpc.levels)):
        entering = [unit for dataset in sorted(tasks) if (unit := unit_name(dataset, level)) in sizes]
        if not entering:
            continue
        pool = [*(stages[-1].pool if stages and schedule.tpc.accumulate else ()), *entering]
        weights = pool_weights(schedule.weights, pool, sizes)
        stages.append(Stage(tuple(entering), tuple(pool), weights, "units", _judged(pool, sizes)))
    return StagePlan("tpc", tuple(stages), note="tasks by level of abstraction")


def by_level_then_clusters(schedule: ScheduleConfig, tasks: TaskSizes, sizes: Mapping[str, int]) -> StagePlan:
    """tpc_ads: the levels, then clusters over everything from `tpc.switch` on.

    At a stated share of the budget, each level has an equal part of what is before it at most (it may end sooner,
    when it is flat), and the last one waits for the switch. `plateau`: the last level ends when it is flat.
    """
    levels = list(by_level(schedule, tasks).stages)
    switch = schedule.tpc.switch
    if switch != "plateau":
        levels = [replace(stage, ends_at=switch * (i + 1) / len(levels)) for i, stage in enumerate(levels)]
        levels[-1] = replace(levels[-1], by_plateau=False)
    last = clusters(schedule, sizes)
    return StagePlan("tpc_ads", (*levels, *last.stages), note=f"levels of tasks, then {last.note}")


def unit_sizes(config: TpcConfig, tasks: TaskSizes) -> dict[str, int]:
    """Train examples of every unit that has any."""
    level_of = {task: number for number, level in enumerate(config.levels) for task in level}
    sizes: Counter[str] = Counter()
    for dataset, counts in tasks.items():
        for task, n in counts.items():
            if task not in level_of:
                raise ConfigError(
                    "a task of the data belongs to no level",
                    where={"key": "schedule.tpc.levels", "dataset": dataset},
                    got=task,
                    expected="; ".join(", ".join(level) for level in config.levels),
                    hint=did_you_mean(task, level_of, "add it to the level it belongs to"),
                )
            sizes[unit_name(dataset, level_of[task])] += n
    return {unit: n for unit, n in sizes.items() if n}


def _judged(pool: list[str], sizes: Mapping[str, int]) -> tuple[str, ...]:
    total: Counter[str] = Counter()
    for unit, n in sizes.items():
        total[dataset_of(unit)] += n
    inside: Counter[str] = Counter()
    for unit in pool:
        inside[dataset_of(unit)] += sizes[unit]
    mostly = [dataset for dataset, n in inside.items() if n >= JUDGED_FROM * total[dataset]]
    return tuple(sorted(mostly or inside))

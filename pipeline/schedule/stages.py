"""What a schedule is before it runs: stages with a pool, weights, and when they may end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.config.schedule import WeightsConfig
from pipeline.data.mixture import proportional_weights, temperature_weights, uniform_weights

# What the names in a stage's pool are: datasets, units `<dataset>@<level>` (the questions of a dataset whose tasks are
# of that level), or datasets whose clips are drawn by cluster in the aligner's embedding space, round-robin.
Source = Literal["datasets", "units", "clusters"]

UNIT_SEPARATOR = "@"  # in no dataset's name


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        entering: what joins; `pool`: everything trained on; `weights` of the pool, summing to 1.
        source: what these names are.
        watched: datasets whose validation loss decides whether the stage is flat; empty: the pool.
        by_plateau: it may end because it is flat; otherwise only at a limit.
        visit_share: it ends at the latest when it took this share of the budget.
        ends_at: it ends at the latest at this share of the budget; what it leaves over goes to the stages after it.
        reset: it begins from the base weights with a fresh optimizer and a learning-rate schedule of its own.
    """

    entering: tuple[str, ...]
    pool: tuple[str, ...]
    weights: dict[str, float]
    source: Source = "datasets"
    watched: tuple[str, ...] = ()
    by_plateau: bool = True
    visit_share: float | None = None
    ends_at: float | None = None
    reset: bool = False

    @property
    def judged(self) -> tuple[str, ...]:
        """The datasets whose validation losses count."""
        return self.watched or self.pool


@dataclass(frozen=True)
class StagePlan:
    """All stages of a run.

    Attributes:
        affinity_version: pins what the groups came from; None without affinity.
        cycle: after the last stage comes the first again, until the budget ends; otherwise the last never ends.
        requires: dataset -> datasets to be mastered before it (regime mastering_rate).
    """

    regime: str
    stages: tuple[Stage, ...]
    affinity_version: str | None = None
    note: str = ""
    cycle: bool = False
    requires: dict[str, tuple[str, ...]] | None = None

    @property
    def names(self) -> list[str]:
        """Every dataset or unit of any stage, in name order."""
        return sorted({name for stage in self.stages for name in stage.pool})

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with, as plain JSON."""
        return {
            "regime": self.regime,
            "affinity_version": self.affinity_version,
            "pools": [list(stage.pool) for stage in self.stages],
        }


def unit_name(dataset: str, level: int) -> str:
    """A dataset's questions of one level as something to draw from."""
    return f"{dataset}{UNIT_SEPARATOR}{level}"


def dataset_of(name: str) -> str:
    """The dataset of a unit, or the dataset itself."""
    return name.partition(UNIT_SEPARATOR)[0]


def pool_weights(config: WeightsConfig, pool: Iterable[str], sizes: Mapping[str, int]) -> dict[str, float]:
    """Sampling weights of a pool, summing to 1."""
    members = {name: sizes[name] for name in pool}
    if config.kind == "uniform":
        return uniform_weights(members)
    if config.kind == "proportional":
        return proportional_weights(members)
    return temperature_weights(members, config.temperature)


def growing_stages(
    groups: Sequence[Sequence[str]], weights: WeightsConfig, sizes: Mapping[str, int]
) -> tuple[Stage, ...]:
    """Group after group joins the pool; none leaves it."""
    stages: list[Stage] = []
    pool: list[str] = []
    for group in groups:
        pool = [*pool, *group]
        stages.append(Stage(tuple(group), tuple(pool), pool_weights(weights, pool, sizes)))
    return tuple(stages)

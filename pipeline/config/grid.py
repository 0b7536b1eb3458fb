"""The grid of runs behind the paper's tables: which arms, on which data, with which seeds, for which table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, PositiveInt, ValidationError, model_validator

from pipeline.config.load import RECIPES, explain, merge, read_tree, shipped_recipes
from pipeline.config.section import Section
from pipeline.errors import ConfigError, did_you_mean

GRIDS = RECIPES / "grids"
GRID_FILE = "grid.yaml"
ORIGINAL = "original"


class Study(Section):
    """An experiment folder of its own below the grid's: what all of its runs share beside the grid's overrides."""

    overrides: tuple[str, ...] = ()


class ArmSpec(Section):
    """An arm: a recipe of `recipes/arms` and what it changes.

    Attributes:
        partitions: the arm is so many arms, `<arm>-p0` and on, which differ in `schedule.seed`.
        own_weights: its sampling weights define it, so that those found for Mix-all do not replace them.
    """

    recipe: str
    overrides: tuple[str, ...] = ()
    partitions: PositiveInt | None = None
    own_weights: bool = False


class TableSpec(Section):
    """The arms of a table, in the order of its columns."""

    study: str
    arms: tuple[str, ...]


class Axis(Section):
    """One question of the search, asked with the answers of those before: candidates by name, as overrides.

    A candidate without overrides is what was found so far, and is not run again after the first axis.
    """

    candidates: dict[str, tuple[str, ...]]
    is_weights: bool = Field(default=False, description="these overrides are sampling weights")


class SearchSpec(Section):
    """How the baseline is tuned: axis by axis, by macro validation loss at the end of the same budget as any run's.

    `seed` is no seed of the tables, so that the choice does not favour one of their runs.
    """

    seed: int = 1000
    axes: dict[str, Axis] = Field(default_factory=dict)


class Tuned(Section):
    """What the search chose. `scores`: candidate run -> macro validation loss."""

    chosen: dict[str, str] = Field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    scores: dict[str, float] = Field(default_factory=dict)


class GridSpec(Section):
    """A whole grid, as <out>/grid.yaml says it."""

    scale: str
    family: str = Field(default="mini", description="recipe that every arm goes on top of: a shipped one, or a file")
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    overrides: tuple[str, ...] = Field(default=(), description="of every run, after the arm's own")
    baseline: str = "mix_all"
    studies: dict[str, Study]
    arms: dict[str, ArmSpec]
    tables: dict[str, TableSpec]
    agreement: str | None = Field(default=None, description="study whose affinity is measured in every way, for T5")
    search: SearchSpec = SearchSpec()
    tuned: Tuned = Tuned()

    @model_validator(mode="after")
    def _names_exist(self) -> GridSpec:
        names = (ORIGINAL, *self.expanded_arms())
        for key, table in self.tables.items():
            if table.study not in self.studies:
                raise ValueError(f"tables.{key}: no such study `{table.study}`; there are {', '.join(self.studies)}")
            for arm in table.arms:
                if arm not in names and arm not in self.arms:
                    raise ValueError(f"tables.{key}: no such arm `{arm}`{_maybe(did_you_mean(arm, names))}")
        if self.search.seed in self.seeds:
            raise ValueError(f"search.seed ({self.search.seed}) must not be one of the seeds")
        if self.baseline not in names:
            raise ValueError(f"baseline `{self.baseline}` is no arm of the grid")
        return self

    def expanded_arms(self) -> dict[str, ArmSpec]:
        """Arms by the names that their runs have: one for each partition of those that have several."""
        found: dict[str, ArmSpec] = {}
        for name, arm in self.arms.items():
            if arm.partitions is None:
                found[name] = arm
                continue
            for number in range(arm.partitions):
                overrides = (*arm.overrides, f"schedule.seed={number}")
                found[f"{name}-p{number}"] = arm.model_copy(update={"overrides": overrides, "partitions": None})
        return found

    def arms_of(self, table: str) -> list[str]:
        """A table's arms by the names that their runs have."""
        names: list[str] = []
        for arm in self.tables[table].arms:
            many = self.arms[arm].partitions if arm in self.arms else None
            names += [arm] if many is None else [f"{arm}-p{number}" for number in range(many)]
        return names

    def study_arms(self, study: str) -> list[str]:
        """Every arm that some table wants of a study, once."""
        wanted = [arm for key, table in self.tables.items() if table.study == study for arm in self.arms_of(key)]
        return list(dict.fromkeys([self.baseline, *wanted]))


def load_scale(scale: str, *, family: str, overrides: Sequence[str] = ()) -> GridSpec:
    """The shipped grid of a scale (or a file) for one family of recipes.

    Raises:
        ConfigError: no such scale or file, an unknown key, or a table of what is not there.
    """
    shipped = sorted(file.stem for file in GRIDS.glob("*.yaml") if file.stem != "paper")
    file = next((each for each in (Path(scale), GRIDS / f"{scale}.yaml") if each.is_file()), None)
    if file is None:
        raise ConfigError(
            "no such scale", got=scale, expected=f"{', '.join(shipped)}, or a YAML file",
            hint=did_you_mean(scale, shipped),
        )  # fmt: skip
    tree = read_tree(file)
    family_tree = dict((tree.pop("families", None) or {}).get(family) or {})
    every = [*tree.get("overrides", ()), *family_tree.pop("overrides", ()), *overrides]
    return _parse({**merge(tree, family_tree), "overrides": every, "scale": file.stem, "family": family}, file)


def load_grid(folder: Path) -> GridSpec:
    """The grid of a folder that `gst tables` made; ConfigError when there is none, or it cannot be read."""
    file = folder / GRID_FILE
    if not file.is_file():
        raise ConfigError("no grid here", where={"folder": folder}, expected=GRID_FILE, hint="run `gst tables` first")
    return _parse(read_tree(file), file)


def dump_grid(grid: GridSpec) -> str:
    """As YAML; `load_grid` reads it."""
    return yaml.safe_dump(grid.model_dump(mode="json"), sort_keys=False)


def check_family(family: str) -> None:
    """ConfigError unless a recipe of that name is there to put arms on."""
    bases, _ = shipped_recipes()
    if family not in bases and not Path(family).is_file():
        raise ConfigError(
            "no such family of recipes", got=family, expected=f"{', '.join(bases)}, or a YAML file",
            hint=did_you_mean(family, bases),
        )  # fmt: skip


def _parse(tree: dict[str, Any], file: Path) -> GridSpec:
    try:
        return GridSpec.model_validate(tree)
    except ValidationError as error:
        raise explain(error, file, GridSpec) from None


def _maybe(hint: str | None) -> str:
    return f"; {hint}" if hint else ""

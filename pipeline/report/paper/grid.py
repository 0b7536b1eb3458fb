"""Reading a grid: its specification and the experiment of every study, with what is missing from either.

A study that was not begun is an experiment without runs: its tables are there and say `missing` in every cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.config.grid import GridSpec
from pipeline.errors import ConfigError
from pipeline.report.cost import Judgement, judge, probe_share
from pipeline.report.examples import RunExamples, read_all
from pipeline.report.runs import ORIGINAL, Experiment, Missing, read_experiment

# The folder of the search for the baseline's settings, beside the studies.
SEARCH = "tune"
TITLES = {
    ORIGINAL: "Original",
    "individual": "Individual",
    "sequential": "Sequential",
    "mix_all": "Mix-all",
    "gst-t2": "GST-T2",
    "gst-g2": "GST-G2",
    "gst-g3": "GST-G3",
    "gst-adaptive": "GST-adaptive",
    "gst-reverse": "reverse progressive",
    "gst-random-order": "random order",
    "gst-strict-cycle": "strict cycle",
    "gst-domain": "domain groups",
    "progression": "progression alone",
    "saturation": "saturation control alone",
    "sm": "SM",
    "tpc": "TPC",
    "ads": "ADS",
    "tpc-ads": "TPC+ADS",
}


@dataclass(frozen=True)
class StudyResults:
    """The runs of one study, what they cost and their single test examples (by run id).

    `unpriced` are runs whose affinity's cost is not known, with why: they have an accuracy and no cost to target.
    """

    name: str
    experiment: Experiment
    judgement: Judgement
    unpriced: tuple[Missing, ...] = ()
    examples: Mapping[str, RunExamples] = field(default_factory=dict)


@dataclass(frozen=True)
class GridResults:
    """A grid's specification, and its studies by name."""

    folder: Path
    spec: GridSpec
    studies: dict[str, StudyResults]

    def of_table(self, table: str) -> tuple[list[str], StudyResults] | None:
        """A table's arms and where their runs are; None when the grid has no such table."""
        wanted = self.spec.tables.get(table)
        return None if wanted is None else (self.spec.arms_of(table), self.studies[wanted.study])

    @property
    def datasets(self) -> tuple[str, ...]:
        """Datasets of all studies: the rows of a table whose own study has no run yet."""
        return tuple(sorted({name for study in self.studies.values() for name in study.experiment.datasets}))

    def partition_of(self, arm: str) -> tuple[str, int] | None:
        """The grid's arm and the number (from 1) that an arm is a partition of; None for an arm of its own."""
        for name, its in self.spec.arms.items():
            for number in range(its.partitions or 0):
                if arm == f"{name}-p{number}":
                    return name, number + 1
        return None

    def title(self, arm: str) -> str:
        """The name of an arm in the tables; the baseline says whether it was tuned."""
        title, partition = TITLES.get(arm, arm), self.partition_of(arm)
        if partition is not None:
            name, number = partition
            title = f"random partition {number}" if "random" in name else f"{name}, partition {number}"
        return f"{title} ({'tuned' if self.spec.tuned.chosen else 'not tuned'})" if arm == self.spec.baseline else title


def read_grid(folder: Path, spec: GridSpec, *, eps: float = 0.02, any_code: bool = False) -> GridResults:
    """Every study that some table needs.

    Args:
        any_code: take runs whatever code they were made with.

    Raises:
        ConfigError: no study has a finished run, or eps is negative.
    """
    names = [name for name in spec.studies if any(table.study == name for table in spec.tables.values())]
    studies = {name: _read_study(folder, name, spec, eps, any_code) for name in names}
    if not any(study.experiment.runs for study in studies.values()):
        raise ConfigError(
            "no finished run to report on",
            where={"grid": folder},
            expected="<study>/arms/<arm>-s<seed>/ with run.json and result.json",
            hint="run `gst tables` first; a grid that was stopped goes on where it was",
        )
    return GridResults(folder, spec, studies)


def _read_study(folder: Path, name: str, spec: GridSpec, eps: float, any_code: bool) -> StudyResults:
    place, arms = folder / name, spec.study_arms(name)
    if any(place.glob("arms/*/result.json")):
        found = read_experiment(place, baseline=spec.baseline, arms=arms, any_code=any_code)
    else:
        found = Experiment(name, (), (), (), ())
    experiment = _expect(found, arms, spec.seeds)
    priced, unpriced = _split_priced(experiment)
    judgement = judge(priced, baseline=spec.baseline, eps=eps)
    return StudyResults(name, experiment, judgement, unpriced, read_all(experiment))


def _expect(found: Experiment, arms: Sequence[str], seeds: Sequence[int]) -> Experiment:
    """The experiment with the grid's arms and seeds; runs the grid asks for and that nobody has are missing."""
    wanted = list(dict.fromkeys([*arms, *found.arms]))
    known = {run.id for run in found.runs}
    known |= {item.run for item in found.missing} | {item.run for item in found.excluded}
    missing = list(found.missing)
    for arm in arms:
        # The untouched model does not depend on a seed: one run of it is enough.
        scored = arm == ORIGINAL and bool(found.of_arm(ORIGINAL))
        for seed in seeds if arm != ORIGINAL else [] if scored else seeds[:1]:
            if f"{arm}-s{seed}" not in known:
                missing.append(Missing(f"{arm}-s{seed}", "no such run"))
    return replace(found, arms=tuple(wanted), seeds=tuple(seeds), missing=tuple(missing))


def _split_priced(experiment: Experiment) -> tuple[Experiment, tuple[Missing, ...]]:
    """The experiment without runs that use affinity at an unknown cost: their accuracy stands, their cost cannot."""
    priced, unpriced = [], []
    for run in experiment.runs:
        try:
            probe_share(run, experiment.probe)
            priced.append(run)
        except ConfigError:
            unpriced.append(Missing(run.id, "uses affinity, and what that cost is not known: no cost to target"))
    return replace(experiment, runs=tuple(priced)), tuple(unpriced)

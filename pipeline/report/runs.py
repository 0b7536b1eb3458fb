"""Reading one experiment folder: runs, their event logs, their results, the probe's cost.

Nothing is dropped silently: a run that cannot be used is listed with the reason (`Excluded`), and so is a run that
should be there and is not (`Missing`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError
from pipeline.report.score import Score, number_or_nan, read_scores
from pipeline.report.windows import ConflictWindow, read_windows
from pipeline.runlog.events import count_skipped, effective_events, read_event_lines

ORIGINAL = "original"
# Order of the columns; arms not named here follow in name order.
CANONICAL_ARMS = (
    ORIGINAL,
    "individual",
    "sequential",
    "mix_all",
    "gst-t2",
    "gst-g2",
    "gst-g3",
    "gst-adaptive",
    "gst-reverse",
    "gst-random-order",
    "gst-strict-cycle",
    "gst-domain",
    "gst-random-3",
    *(f"gst-random-3-p{number}" for number in range(5)),
    "progression",
    "saturation",
    "sm",
    "tpc",
    "ads",
    "tpc-ads",
)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation on the fixed validation set; counts are global, `wall_s` is training time without downtime."""

    step: int
    samples: int
    tokens: int
    wall_s: float
    stage: int
    scores: dict[str, Score]


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step; `counts` are examples per dataset in its global batch."""

    step: int
    samples: int
    loss: float
    counts: dict[str, int]


@dataclass(frozen=True)
class StageEntry:
    """A stage began: its pool, sampling weights and the numbers of the decision."""

    step: int
    samples: int
    stage: int
    pool: tuple[str, ...]
    weights: dict[str, float]
    reason: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """Final scores on the test split and what the run used up."""

    samples: int
    tokens: int
    steps: int
    wall_s: float
    scores: dict[str, Score]


@dataclass(frozen=True)
class ProbeCost:
    """What finding the affinity cost, warm-up included. `tokens` is None when the probe did not count them."""

    samples: float
    wall_s: float
    tokens: float | None = None


@dataclass(frozen=True)
class Run:
    """One finished arm and seed. `info` is `run.json` as written; `skipped` counts unreadable examples per dataset."""

    arm: str
    seed: int
    info: dict[str, Any]
    result: Result
    evaluations: tuple[Evaluation, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    stages: tuple[StageEntry, ...] = ()
    conflicts: tuple[ConflictWindow, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict)
    torn_lines: int = 0
    recipe_digest: str = ""
    folder: Path = Path()

    @property
    def id(self) -> str:
        return f"{self.arm}-s{self.seed}"

    @property
    def code_digest(self) -> str:
        """Digest of the code that made the run; runs from before there was one count as made by one unknown code."""
        return str(self.info.get("code_digest") or "unknown")

    @property
    def uses_affinity(self) -> bool:
        return bool(self.info.get("uses_affinity"))

    @property
    def affinity_cost(self) -> ProbeCost | None:
        """What the version that this run's groups came from cost; None when `run.json` does not say."""
        cost = self.info.get("affinity_cost")
        return _probe_cost(cost) if cost else None


@dataclass(frozen=True)
class Excluded:
    """A run that is there but not used."""

    run: str
    reason: str


@dataclass(frozen=True)
class Missing:
    """A run that the experiment should have and has not (or not yet)."""

    run: str
    reason: str


@dataclass(frozen=True)
class Experiment:
    """All usable runs of a folder. `arms` includes expected arms without any run."""

    name: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    datasets: tuple[str, ...]
    runs: tuple[Run, ...]
    excluded: tuple[Excluded, ...] = ()
    missing: tuple[Missing, ...] = ()
    probe: ProbeCost | None = None

    def of_arm(self, arm: str) -> list[Run]:
        return [run for run in self.runs if run.arm == arm]

    def run(self, arm: str, seed: int) -> Run | None:
        return next((run for run in self.runs if run.arm == arm and run.seed == seed), None)

    @property
    def trained_arms(self) -> list[str]:
        return [arm for arm in self.arms if arm != ORIGINAL]


def read_experiment(
    folder: Path, *, baseline: str = "mix_all", arms: Iterable[str] = (), any_code: bool = False
) -> Experiment:
    """Read every run below `folder/arms`.

    Args:
        baseline: the arm whose data and code the other runs must share.
        arms: arms that are expected; those without a run are reported as missing (the baseline always is).
        any_code: use runs made by other code too; `provenance.caveats` then says so.

    Raises:
        ConfigError: there is no such folder, or it holds no finished run at all.
    """
    places = sorted(path.parent for path in folder.glob("arms/*/run.json"))
    runs: list[Run] = []
    missing: list[Missing] = []
    for place in places:
        found = read_run(place)
        if isinstance(found, Run):
            runs.append(found)
        else:
            missing.append(found)
    if not runs:
        raise ConfigError(
            "no finished run to report on",
            where={"folder": folder},
            got="; ".join(f"{item.run}: {item.reason}" for item in missing) or None,
            expected="arms/<arm>-s<seed>/ with run.json and result.json",
            hint="run `gst train` first, or name the experiment folder (the recipes' `out`)",
        )
    usable, excluded = compatible(runs, baseline, any_code=any_code)
    present = {run.arm for run in runs} | {baseline, *arms}
    ordered = [arm for arm in CANONICAL_ARMS if arm in present]
    ordered += sorted(present - set(ordered))
    seeds = sorted({run.seed for run in usable if run.arm != ORIGINAL})
    wanted_seeds = seeds or sorted({run.seed for run in usable})
    accounted = {run.id for run in runs} | {item.run for item in missing}
    for arm in ordered:
        # The untouched model does not depend on a seed: one run of it is enough.
        scored = any(run.arm == ORIGINAL for run in runs)
        for seed in wanted_seeds if arm != ORIGINAL else [] if scored else wanted_seeds[:1]:
            if f"{arm}-s{seed}" not in accounted:
                missing.append(Missing(f"{arm}-s{seed}", "no such run"))
    return Experiment(
        name=folder.resolve().name,
        arms=tuple(ordered),
        seeds=tuple(seeds),
        datasets=tuple(sorted({name for run in usable for name in run.result.scores})),
        runs=tuple(sorted(usable, key=lambda run: (ordered.index(run.arm), run.seed))),
        excluded=tuple(excluded),
        missing=tuple(missing),
        probe=read_probe_cost(folder / "probe" / "probe.json"),
    )


def read_run(folder: Path) -> Run | Missing:
    """One run's folder; `Missing` when the run is not finished, failed, or its files cannot be read."""
    try:
        info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        arm, seed = str(info["arm"]), int(info["seed"])
        if info.get("status") != "finished":
            return Missing(f"{arm}-s{seed}", f"not finished (status: {info.get('status', 'unknown')})")
        if not (folder / "result.json").exists():
            return Missing(f"{arm}-s{seed}", "finished, but without result.json")
        result = _result(json.loads((folder / "result.json").read_text(encoding="utf-8")))
        events, torn = read_event_lines(folder / "events-rank0.jsonl")
        effective = effective_events(events)
        return Run(
            arm=arm,
            seed=seed,
            info=info,
            result=result,
            evaluations=tuple(_evaluation(e) for e in effective if e["event"] == "eval" and e.get("split") == "val"),
            steps=tuple(_step(e) for e in effective if e["event"] == "step"),
            stages=tuple(_stage(e) for e in effective if e["event"] == "stage"),
            conflicts=read_windows(effective),
            skipped=count_skipped(folder),
            torn_lines=torn,
            recipe_digest=comparable_recipe(folder / "recipe.yaml") or str(info.get("config_digest", "")),
            folder=folder,
        )
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        return Missing(folder.name, f"unreadable: {type(error).__name__}: {error}")


def comparable_recipe(path: Path) -> str | None:
    """sha256 of the resolved recipe without what may differ between seeds of one arm; None without a recipe.

    Left out: `out`, `logging`, `data.cache`, `train.seed` and `schedule.seed` (each seed of a random control may draw
    its own partition). run.json's `config_digest` includes the seed, so it cannot tell whether two seeds are
    comparable.
    """
    if not path.exists():
        return None
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key in ("out", "logging"):
        tree.pop(key, None)
    for section, key in (("data", "cache"), ("train", "seed"), ("schedule", "seed")):
        (tree.get(section) or {}).pop(key, None)
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def compatible(runs: list[Run], baseline: str, *, any_code: bool = False) -> tuple[list[Run], list[Excluded]]:
    """Split runs into those that may stand in one table and those that may not, with the reason.

    The first run of the baseline (of all runs, when there is no baseline) says what the data and the code are; a run
    that saw other bytes of a shared dataset is excluded, and so is one that other code made, unless `any_code`. Within
    an arm, all seeds must have the recipe that most of them have.
    """
    reference = next((run for run in runs if run.arm == baseline), runs[0])
    kept: list[Run] = []
    excluded: list[Excluded] = []
    for run in runs:
        differing = _differing_data(reference.info.get("data_digests") or {}, run.info.get("data_digests") or {})
        if differing:
            names = ", ".join(differing)
            excluded.append(Excluded(run.id, f"another data digest than {reference.id}: {names}"))
        elif run.code_digest != reference.code_digest and not any_code:
            ours, theirs = run.code_digest[:12], reference.code_digest[:12]
            excluded.append(Excluded(run.id, f"another code digest ({ours}) than {reference.id} ({theirs})"))
        else:
            kept.append(run)
    usual = {arm: _most_common([run.recipe_digest for run in kept if run.arm == arm]) for arm in {r.arm for r in kept}}
    for run in kept:
        if run.recipe_digest != usual[run.arm]:
            ours, theirs = run.recipe_digest[:12] or "none", usual[run.arm][:12] or "none"
            excluded.append(Excluded(run.id, f"another recipe digest ({ours}) than its arm's other seeds ({theirs})"))
    return [run for run in kept if run.recipe_digest == usual[run.arm]], excluded


def read_probe_cost(path: Path) -> ProbeCost | None:
    """The affinity's cost from `probe.json`; None when nothing was probed.

    Raises:
        ConfigError: the file is there but does not say what the probe cost.
    """
    if not path.exists():
        return None
    try:
        return _probe_cost(json.loads(path.read_text(encoding="utf-8"))["cost"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            "the probe does not say what it cost",
            where={"file": path},
            got=f"{type(error).__name__}: {error}",
            expected='"cost": {"samples": ..., "seconds": ...}',
            hint="run `gst probe` again",
        ) from None


def _probe_cost(cost: Mapping[str, Any]) -> ProbeCost:
    tokens = cost.get("tokens")
    return ProbeCost(float(cost["samples"]), float(cost["seconds"]), None if tokens is None else float(tokens))


def _differing_data(reference: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return sorted(name for name in reference.keys() & other.keys() if reference[name] != other[name])


def _most_common(values: list[str]) -> str:
    # Counter keeps first-seen order among equals, and runs come in folder order: the outcome is fixed.
    return Counter(values).most_common(1)[0][0]


def _result(value: dict[str, Any]) -> Result:
    return Result(
        samples=int(value.get("samples") or 0),
        tokens=int(value.get("tokens") or 0),
        steps=int(value.get("steps") or 0),
        wall_s=float(value.get("wall_s") or 0.0),
        scores=read_scores(value["datasets"]),
    )


def _evaluation(event: dict[str, Any]) -> Evaluation:
    return Evaluation(
        step=int(event["step"]),
        samples=int(event["samples"]),
        tokens=int(event["tokens"]),
        wall_s=float(event["wall_s"]),
        stage=int(event.get("stage") or 0),
        scores=read_scores(event["datasets"]),
    )


def _step(event: dict[str, Any]) -> StepRecord:
    counts = {name: int(row["n"]) for name, row in (event.get("datasets") or {}).items()}
    return StepRecord(int(event["step"]), int(event["samples"]), number_or_nan(event.get("loss")), counts)


def _stage(event: dict[str, Any]) -> StageEntry:
    return StageEntry(
        step=int(event["step"]),
        samples=int(event["samples"]),
        stage=int(event["stage"]),
        pool=tuple(event.get("pool") or ()),
        weights={name: float(weight) for name, weight in (event.get("weights") or {}).items()},
        reason=dict(event.get("reason") or {}),
    )

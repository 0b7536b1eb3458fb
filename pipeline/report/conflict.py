"""How far the datasets' gradients agreed in training: a figure over time and two tables, from the windows' sketches."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from pipeline.report.cost import Judgement
from pipeline.report.figures import FigureFile, label_axis, save_figure
from pipeline.report.palette import arm_styles
from pipeline.report.runs import Experiment, Run
from pipeline.report.table import MISSING, Cell, Table, count, seed_cell, text
from pipeline.report.windows import ConflictWindow

NOTHING = "No window of gradient sketches was logged (sketch.enabled, sketch.window_steps)."


def conflict_curves(experiment: Experiment, judgement: Judgement, path: Path) -> FigureFile:
    """Share of opposed pairs and mean cosine in each window, one line a run."""
    styles = arm_styles(experiment.trained_arms, judgement.baseline)
    runs = [run for run in experiment.runs if run.conflicts and run.arm in styles]

    def draw() -> Figure:
        """Two panels over training samples."""
        figure = Figure(figsize=(9, 3.4), dpi=130, layout="constrained")
        opposed, cosine = figure.subplots(1, 2)
        for run in runs:
            _draw_run(opposed, run, styles[run.arm], lambda window: window.negative_share)
            _draw_run(cosine, run, styles[run.arm], lambda window: window.mean_cosine)
        opposed.set_ylim(0, 1)
        opposed.yaxis.set_major_formatter(PercentFormatter(1.0))
        opposed.set_title("pairs of datasets that pull apart", loc="left")
        cosine.axhline(0, color="#777777", linewidth=1, linestyle=":")
        cosine.set_title("mean cosine of pairs whose cosine is known", loc="left")
        for axis in (opposed, cosine):
            axis.set_xlim(left=0)
            label_axis(axis, "samples", "training samples")
        lines = [Line2D([], [], linewidth=1.8, label=arm, **styles[arm]) for arm in {run.arm: None for run in runs}]
        figure.legend(handles=lines, loc="outside upper left", ncols=min(6, max(1, len(lines))))
        return figure

    rows = (
        (run.arm, run.seed, window.step, window.samples, window.negative_share, window.mean_cosine, window.dropped)
        for run in runs
        for window in run.conflicts
    )
    header = ("arm", "seed", "step", "samples", "negative_share", "mean_cosine", "dropped")
    save_figure(draw, path, header, rows)
    return FigureFile(
        path,
        "Conflict over time",
        "Share of dataset pairs with a negative inner product of gradients, and their mean cosine, during training.",
        "One line a run. With pure noise half of all pairs would pull apart; a mean cosine above zero says that the "
        "datasets share more than they dispute.",
    )


def conflict_table(experiment: Experiment) -> Table:
    """One row an arm: how many pairs pull apart, which most, and how far the sketch itself may be off."""
    rows = []
    for arm in experiment.trained_arms:
        runs = [run for run in experiment.of_arm(arm) if run.conflicts]
        if not runs:
            continue
        rows.append(
            (
                text(arm),
                count(sum(len(run.conflicts) for run in runs), [run.id for run in runs]),
                _over_windows(runs, lambda window: window.negative_share, scale=100),
                _over_windows(runs, lambda window: window.mean_cosine, digits=2),
                _most_opposed(runs),
                _over_windows(runs, lambda window: window.sketch_error, digits=3),
                count(sum(window.dropped for run in runs for window in run.conflicts)),
            )
        )
    columns = (
        "arm",
        "windows",
        "pairs that pull apart, %",
        "mean cosine",
        "most opposed pair",
        "sketch error of a cosine",
        "dropped micro-batches",
    )
    notes = (
        "Means over windows, then over seeds. The sketch error is measured where a second seed was used "
        "(sketch.second_seed_every). Dropped: their gradients were not finite.",
    )
    return Table(
        "conflict",
        "Conflict between datasets",
        columns,
        tuple(rows),
        notes if rows else (NOTHING,),
        text_columns=frozenset({0, 4}),
    )


def noise_table(experiment: Experiment) -> Table:
    """Gradient noise scale of each dataset and arm: median over windows, mean over seeds."""
    arms = [arm for arm in experiment.trained_arms if any(run.conflicts for run in experiment.of_arm(arm))]
    rows = [
        (text(name), *(_median_noise(experiment.of_arm(arm), name) for arm in arms))
        for name in experiment.datasets
        if arms
    ]
    notes = (
        "S / |g|^2 (McCandlish et al. 2018): below about this many micro-batches a step's gradient of the dataset is "
        "mostly noise. Missing: the squared norm of its mean gradient was never estimated above zero.",
    )
    return Table(
        "noise_scale",
        "Gradient noise scale, in micro-batches",
        ("dataset", *arms),
        tuple(rows),
        notes if arms else (NOTHING,),
    )


def _draw_run(axis: Axes, run: Run, style: dict[str, object], value: Callable[[ConflictWindow], float]) -> None:
    points = [(window.samples, value(window)) for window in run.conflicts]
    axis.plot([x for x, _ in points], [y for _, y in points], linewidth=1.2, alpha=0.8, **style)  # type: ignore[arg-type]


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _over_windows(
    runs: list[Run], value: Callable[[ConflictWindow], float], scale: float = 1.0, digits: int = 1
) -> Cell:
    found = {run.id: _finite(value(window) for window in run.conflicts) for run in runs}
    means = {name: float(np.mean(values)) for name, values in found.items() if values}
    return seed_cell(means, scale=scale, digits=digits) if means else MISSING


def _most_opposed(runs: list[Run]) -> Cell:
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run in runs:
        for window in run.conflicts:
            for pair, cosine in window.cosine.items():
                values[pair].append(cosine)
    if not values:
        return MISSING
    means = {pair: float(np.mean(each)) for pair, each in values.items()}
    pair = min(means, key=lambda each: (means[each], each))
    return Cell(f"{pair[0]} / {pair[1]}: {means[pair]:+.2f}", means[pair])


def _median_noise(runs: Iterable[Run], dataset: str) -> Cell:
    found = {run.id: [w.noise_scale[dataset] for w in run.conflicts if dataset in w.noise_scale] for run in runs}
    medians = {name: float(np.median(values)) for name, values in found.items() if values}
    return seed_cell(medians) if medians else MISSING

"""The few figures that carry the argument: final accuracy, cost, affinity among random partitions, agreement of views.

With 25 arms a legend says nothing: arms are rows, and a line for each is drawn for a handful only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.report.curves import mean_loss
from pipeline.report.figures import FigureFile, save_figure, target_bars
from pipeline.report.paper.agreement import TITLES, Agreement
from pipeline.report.paper.contrasts import ACCURACY, values_by_seed
from pipeline.report.paper.grid import GridResults
from pipeline.report.paper.grouping import NAME, Roles, roles
from pipeline.report.paper.shape import select, titled
from pipeline.report.runs import ORIGINAL
from pipeline.report.stats import summarize

_BLACK, _ORANGE, _BLUE, _GREY = "#000000", "#D55E00", "#0072B2", "#8A8A8A"
# Lines of the loss figure, as far as they are there.
HANDFUL = ("mix_all", "sequential", "gst-g3", "gst-adaptive", "saturation")


def draw_figures(grid: GridResults, agreement: Agreement, folder: Path) -> dict[str, FigureFile]:
    """Every figure that has something to show, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, FigureFile | None] = {
        "accuracy": accuracy_dots(grid, "T1", folder / "accuracy"),
        "accuracy_low": accuracy_dots(grid, "T2", folder / "accuracy_low"),
        "partitions": partition_dots(grid, folder / "partitions"),
        "agreement": agreement_map(agreement, folder / "agreement"),
        "cost": _cost_bars(grid, folder / "cost_to_target"),
        "mean_loss": _losses(grid, folder / "mean_loss"),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def accuracy_dots(grid: GridResults, table: str, path: Path) -> FigureFile | None:
    """Weighted and macro token accuracy of a table's trained arms: a dot a seed, the mean and its spread."""
    wanted = grid.of_table(table)
    if wanted is None:
        return None
    arms, study = wanted
    experiment, judgement = select(grid, study, [arm for arm in arms if arm != ORIGINAL])
    values = {m: {a: values_by_seed(experiment, judgement, m, a) for a in experiment.arms} for m in ACCURACY}
    if not any(math.isfinite(v) for by_arm in values.values() for by_seed in by_arm.values() for v in by_seed.values()):
        return None
    baseline = grid.spec.baseline

    def draw() -> Figure:
        """Both metrics side by side, an arm a row."""
        figure = Figure(figsize=(9.5, 1.1 + 0.36 * len(experiment.arms)), dpi=130, layout="constrained")
        for axis, metric in zip(figure.subplots(1, 2, sharey=True), ACCURACY, strict=True):
            for row, arm in enumerate(experiment.arms):
                _dots(axis, row, list(values[metric][arm].values()), _BLACK if arm == baseline else _BLUE)
            mean = summarize(list(values[metric].get(baseline, {}).values())).mean
            if math.isfinite(mean):
                axis.axvline(100 * mean, color=_BLACK, linewidth=1, linestyle=":")
            axis.set_xlabel(f"{metric}, %")
            axis.set_yticks(range(len(experiment.arms)), [grid.title(arm) for arm in experiment.arms])
            axis.set_ylim(len(experiment.arms) - 0.4, -0.6)
        return figure

    rows = ((m, arm, seed, v) for m, by_arm in values.items() for arm, s in by_arm.items() for seed, v in s.items())
    save_figure(draw, path, ("metric", "arm", "seed", "accuracy"), rows)
    title = {"T1": "Final accuracy, full data", "T2": "Final accuracy, low resource"}.get(table, table)
    return FigureFile(
        path,
        title,
        f"Final weighted and macro token accuracy of every trained arm of {table}, a dot for each seed with mean and "
        "spread; the exact numbers are in the table.",
        "Small dots: seeds; large dot and bar: mean and standard deviation; dotted: the baseline's mean. The axis does "
        "not start at zero.",
    )


def partition_dots(grid: GridResults, path: Path) -> FigureFile | None:
    """T4 as a picture: every random partition, affinity among them, the other controls below."""
    wanted = grid.of_table(NAME)
    if wanted is None:
        return None
    arms, study = wanted
    part = roles(grid, study, arms)
    lines = _partition_lines(grid, part)
    experiment, judgement = select(grid, study, arms)
    values = {m: {arm: values_by_seed(experiment, judgement, m, arm) for arm, _, _ in lines} for m in ACCURACY}
    if not any(by_seed for by_arm in values.values() for by_seed in by_arm.values()):
        return None

    def draw() -> Figure:
        """Both metrics side by side, over the range of the partitions."""
        figure = Figure(figsize=(9.5, 1.2 + 0.34 * len(lines)), dpi=130, layout="constrained")
        for axis, metric in zip(figure.subplots(1, 2, sharey=True), ACCURACY, strict=True):
            for row, (arm, _, color) in enumerate(lines):
                _dots(axis, row, list(values[metric][arm].values()), color)
            means = [summarize(list(values[metric][arm].values())).mean for arm in part.partitions]
            known = [100 * mean for mean in means if math.isfinite(mean)]
            if known:
                axis.axvspan(min(known), max(known), color=_GREY, alpha=0.2, linewidth=0)
            axis.set_xlabel(f"{metric}, %")
            axis.set_yticks(range(len(lines)), [label for _, label, _ in lines])
            axis.set_ylim(len(lines) - 0.4, -0.6)
        band = Line2D([], [], color=_GREY, alpha=0.4, linewidth=8, label="range of the partitions' means")
        figure.legend(handles=[band], loc="outside upper left")
        return figure

    rows = ((m, arm, seed, v) for m, by_arm in values.items() for arm, s in by_arm.items() for seed, v in s.items())
    save_figure(draw, path, ("metric", "arm", "seed", "accuracy"), rows)
    return FigureFile(
        path,
        "Affinity among random partitions",
        "Final accuracy of affinity groups, of every random partition of the same sizes and of the other controls, a "
        "dot for each seed with mean and spread.",
        "If affinity lies inside the grey band, groups drawn at random did as well. The axis does not start at zero.",
    )


def agreement_map(agreement: Agreement, path: Path) -> FigureFile | None:
    """Two matrices of the ways to measure affinity: agreement of groups, and of the pairs' ranks."""
    if not agreement.pairs:
        return None
    names = [name for name in agreement.names() if agreement.view(name) is not None]
    panels = (("groups: adjusted Rand index", "ari"), ("ranks of pairs: Spearman", "spearman"))

    def draw() -> Figure:
        """Both ways to compare side by side."""
        side = 0.62 * len(names) + 1.2
        figure = Figure(figsize=(2 * side + 2.2, side + 1.2), dpi=130, layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, (title, key) in zip(axes, panels, strict=True):
            _matrix(axis, agreement, names, key)
            axis.set_title(title, loc="left")
        axes[0].set_yticks(range(len(names)), [TITLES.get(name, name) for name in names])
        return figure

    rows = ((pair.a, pair.b, pair.ari, pair.spearman, pair.n_pairs) for pair in agreement.pairs)
    save_figure(draw, path, ("a", "b", "ari", "spearman", "n_pairs"), rows)
    return FigureFile(
        path,
        "Agreement of the ways to measure affinity",
        "Two matrices of the ways to measure affinity: how alike their groups are and how alike they rank the pairs of "
        "datasets; the numbers are in the table.",
        "1: the same; 0: no more than by chance. Grey: not known.",
    )


def _partition_lines(grid: GridResults, part: Roles) -> list[tuple[str, str, str]]:
    """(arm, label, colour) of every row of the picture."""
    lines = [(part.affinity, f"affinity ({grid.title(part.affinity)})", _ORANGE)] if part.affinity else []
    lines += [(arm, grid.title(arm), _GREY) for arm in part.partitions]
    lines += [(arm, grid.title(arm), _BLUE) for arm in part.controls]
    return [*lines, (part.baseline, grid.title(part.baseline), _BLACK)]


def _dots(axis: Axes, row: int, values: Sequence[float], color: str) -> None:
    known = [100 * value for value in values if math.isfinite(value)]
    if not known:
        word = "NaN" if values else "missing"
        axis.text(0.02, row, word, transform=axis.get_yaxis_transform(), va="center", color=_GREY, style="italic")
        return
    found = summarize(known)
    axis.plot(known, [row] * len(known), linestyle="", marker="o", markersize=3.5, color=color, alpha=0.45)
    axis.errorbar(found.mean, row, xerr=found.spread, marker="o", markersize=7, color=color, capsize=3, linewidth=1.4)
    if len(known) < len(values):
        axis.annotate(" NaN in a seed", (found.mean, row), textcoords="offset points", xytext=(6, 4), fontsize=7)


def _matrix(axis: Axes, agreement: Agreement, names: Sequence[str], key: str) -> None:
    n = len(names)
    values = np.full((n, n), np.nan)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            pair = agreement.pair(a, b)
            known = None if pair is None or i == j else getattr(pair, key)
            values[i, j] = math.nan if known is None else known
    axis.imshow(values, cmap=mpl.colormaps["cividis"].with_extremes(bad="#D9D9D9"), vmin=-0.2, vmax=1.0)
    for (i, j), value in np.ndenumerate(values):
        if math.isfinite(value):
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.5 else "black")
    axis.set_xticks(range(n), [TITLES.get(name, name) for name in names], rotation=60, ha="right")
    axis.grid(visible=False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _cost_bars(grid: GridResults, path: Path) -> FigureFile | None:
    """Cost of T6's arms, one bar an arm; of the random partitions the first stands for all."""
    wanted = grid.of_table("T6")
    if wanted is None:
        return None
    arms, study = wanted
    drawn = [arm for arm in arms if (grid.partition_of(arm) or ("", 1))[1] == 1]
    experiment, judgement = select(grid, study, drawn)
    if not judgement.costs:
        return None
    figure = target_bars(*titled(grid, experiment, judgement), path)
    only = " Of the random partitions only the first is drawn." if len(drawn) < len(arms) else ""
    return replace(figure, caption=figure.caption + only)


def _losses(grid: GridResults, path: Path) -> FigureFile | None:
    wanted = grid.of_table("T6") or grid.of_table("T1")
    if wanted is None:
        return None
    arms, study = wanted
    names = [arm for arm in (grid.spec.baseline, *HANDFUL) if arm in arms]
    experiment, judgement = select(grid, study, list(dict.fromkeys(names)))
    there = any(run.evaluations for run in experiment.runs)
    return mean_loss(*titled(grid, experiment, judgement), path) if there else None

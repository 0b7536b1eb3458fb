"""Figures over the course of training: loss by dataset, mean loss, and what the mixture really was."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pipeline.report.averages import macro
from pipeline.report.cost import Judgement
from pipeline.report.figures import FigureFile, label_axis, save_figure
from pipeline.report.palette import arm_styles, dataset_colors
from pipeline.report.runs import Evaluation, Experiment, Run
from pipeline.report.stats import summarize

Points = list[tuple[float, float]]
MIXTURE_BINS = 40


def loss_curves(experiment: Experiment, judgement: Judgement, path: Path) -> FigureFile:
    """Validation loss of every dataset against samples, one small panel each, all arms in it."""
    styles = arm_styles(experiment.trained_arms, judgement.baseline)
    names = experiment.datasets

    def draw() -> Figure:
        """A panel for each dataset, the last row with the axis."""
        columns = min(4, len(names))
        lines = math.ceil(len(names) / columns)
        figure = Figure(figsize=(3.1 * columns, 1.9 * lines + 0.8), dpi=130, layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True).ravel()
        for axis, name in zip(panels, names, strict=False):
            _draw_dataset(axis, experiment, judgement, name, styles)
        for axis in panels[len(names) :]:
            axis.set_visible(False)
        # A panel with nothing below it carries the axis of its column.
        for axis in panels[max(0, len(names) - columns) : len(names)]:
            axis.tick_params(labelbottom=True)
        figure.supxlabel("training samples", fontsize=9)
        figure.supylabel("validation loss (nats per answer token)", fontsize=9)
        extra = [
            Line2D([], [], color="#777777", linestyle=":", label="target (mean over seeds)"),
            Line2D([], [], color="#777777", marker="^", linestyle="", label="dataset enters"),
            Line2D([], [], color="#777777", marker="|", linestyle="", markersize=9, label="stage switch"),
        ]
        _legend(figure, styles, experiment, extra)
        return figure

    rows = (
        (run.arm, run.seed, e.step, e.samples, e.wall_s, e.stage, name, score.loss, score.token_accuracy)
        for run in experiment.runs
        for e in run.evaluations
        for name, score in e.scores.items()
    )
    header = ("arm", "seed", "step", "samples", "wall_s", "stage", "dataset", "loss", "token_accuracy")
    save_figure(draw, path, header, rows)
    return FigureFile(
        path,
        "Validation loss by dataset",
        "Small panels, one a dataset, with validation loss against training samples for every arm.",
        "Bold: mean over seeds; thin: single seeds. Samples here are training samples alone, without the probe.",
    )


def mean_loss(experiment: Experiment, judgement: Judgement, path: Path) -> FigureFile:
    """Mean over datasets of validation loss against samples, one line an arm."""
    styles = arm_styles(experiment.trained_arms, judgement.baseline)

    def value(evaluation: Evaluation) -> float:
        return macro(evaluation.scores, experiment.datasets, "loss")

    def draw() -> Figure:
        """One line an arm over training samples, with the switches of stages."""
        figure = Figure(figsize=(9, 4.6), dpi=130, layout="constrained")
        axis = figure.subplots()
        for arm, style in styles.items():
            _draw_arm(axis, experiment.of_arm(arm), value, style)
        _draw_switches(axis, experiment, styles)
        axis.set_ylabel("mean validation loss (nats per token)")
        axis.set_xlim(left=0)
        label_axis(axis, "samples", "training samples")
        _legend(figure, styles, experiment, [])
        return figure

    rows = (
        (run.arm, run.seed, e.step, e.samples, e.wall_s, e.stage, value(e))
        for run in experiment.runs
        for e in run.evaluations
    )
    save_figure(draw, path, ("arm", "seed", "step", "samples", "wall_s", "stage", "macro_loss"), rows)
    return FigureFile(
        path,
        "Mean validation loss",
        "Mean validation loss over all datasets against training samples, one line for each arm.",
        "Bold: mean over seeds; thin: single seeds; ticks at the bottom: stage switches. The probe is not counted.",
    )


def mixture_shares(experiment: Experiment, judgement: Judgement, path: Path) -> FigureFile:
    """Share of each dataset in the examples really trained on, over time; the first seed of each arm."""
    runs = [runs[0] for arm in experiment.trained_arms if (runs := [r for r in experiment.of_arm(arm) if r.steps])]
    order = _stack_order(experiment, runs)
    colors = dataset_colors(order)
    shares = {run.id: binned_shares(run, order) for run in runs}

    def draw() -> Figure:
        """One stack of shares a run, switches of stages dashed."""
        height = max(1.3 + 1.9 * len(runs), 0.9 + 0.19 * len(order))
        figure = Figure(figsize=(10.5, height), dpi=130, layout="constrained")
        panels = figure.subplots(max(len(runs), 1), 1, sharex=True, squeeze=False).ravel()
        for axis, run in zip(panels, runs, strict=False):
            samples, stacked = shares[run.id]
            axis.stackplot(samples, stacked, colors=[colors[n] for n in order], edgecolor="white", linewidth=0.4)
            for entry in run.stages:
                if entry.step > 0:
                    axis.axvline(entry.samples, color="black", linewidth=1, linestyle="--")
            axis.set_title(run.id, loc="left")
            axis.set_ylim(0, 1)
            axis.set_xlim(samples[0], samples[-1])
            axis.grid(visible=False)
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
            label_axis(axis, "samples", "training samples" if run is runs[-1] else "")
        figure.supylabel("share of examples", fontsize=9)
        patches = [Patch(facecolor=colors[name], label=name) for name in reversed(order)]
        figure.legend(handles=patches, loc="outside right center", fontsize=8, ncols=1 if len(order) <= 40 else 2)
        return figure

    rows = (
        (run.arm, run.seed, samples, name, share)
        for run in runs
        for name, line in zip(order, shares[run.id][1], strict=True)
        for samples, share in zip(shares[run.id][0], line, strict=True)
    )
    save_figure(draw, path, ("arm", "seed", "samples", "dataset", "share"), rows)
    return FigureFile(
        path,
        "Mixture over time",
        "Stacked shares of each dataset in the training examples over time, one panel for each arm.",
        "Counted from the examples of each step, averaged in "
        f"at most {MIXTURE_BINS} equal stretches; dashed: stage switches.",
    )


def binned_shares(run: Run, datasets: Sequence[str]) -> tuple[list[float], list[list[float]]]:
    """Samples at the end of each of at most `MIXTURE_BINS` stretches of steps, and each dataset's share in it.

    The first stretch's share also stands at 0 samples, where the drawn area starts. Shares are [D][stretches + 1].
    """
    parts = [part for part in np.array_split(np.arange(len(run.steps)), MIXTURE_BINS) if part.size]
    borders, columns = [0.0], []
    for part in parts:
        counts = np.array([sum(run.steps[i].counts.get(name, 0) for i in part) for name in datasets], dtype=float)
        borders.append(float(run.steps[part[-1]].samples))
        columns.append(counts / counts.sum() if counts.sum() else counts)
    columns = [columns[0], *columns]
    return borders, np.array(columns).T.tolist()


def mean_curve(runs: Sequence[Run], value: Callable[[Evaluation], float]) -> Points:
    """Mean over runs at the steps all of them evaluated: (samples, value)."""
    if not runs:
        return []
    by_run = [{e.step: e for e in run.evaluations} for run in runs]
    common = sorted(set.intersection(*(set(steps) for steps in by_run)))
    return [
        (
            summarize([steps[step].samples for steps in by_run]).mean,
            summarize([value(steps[step]) for steps in by_run]).mean,
        )
        for step in common
    ]


def _draw_dataset(
    axis: Axes, experiment: Experiment, judgement: Judgement, name: str, styles: dict[str, dict[str, Any]]
) -> None:
    def value(evaluation: Evaluation) -> float:
        return evaluation.scores[name].loss if name in evaluation.scores else math.nan

    _draw_switches(axis, experiment, styles)
    for arm, style in styles.items():
        runs = experiment.of_arm(arm)
        points = _draw_arm(axis, runs, value, style)
        entered = next((s.samples for run in runs[:1] for s in run.stages if s.step > 0 and name in s.pool), None)
        started = any(name in s.pool for run in runs[:1] for s in run.stages if s.step == 0)
        if entered is not None and not started and points:
            height = float(np.interp(entered, [p[0] for p in points], [p[1] for p in points]))
            axis.plot(
                entered, height, marker="^", color=style["color"], markersize=6, markeredgecolor="white", zorder=4
            )
    targets = [target[name] for target in judgement.targets.values() if math.isfinite(target.get(name, math.nan))]
    if targets:
        axis.axhline(float(np.mean(targets)), color="#777777", linestyle=":", linewidth=1.1)
    bad = any(not math.isfinite(value(e)) for run in experiment.runs for e in run.evaluations)
    if bad:
        axis.text(
            0.98, 0.95, "NaN or missing", transform=axis.transAxes, ha="right", va="top", fontsize=8, color="#B00000"
        )
    axis.set_title(name if len(name) <= 32 else name[:31] + "…", loc="left")
    axis.set_xlim(left=0)
    axis.yaxis.set_major_locator(MaxNLocator(4))
    label_axis(axis, "samples", "")


def _draw_arm(axis: Axes, runs: Sequence[Run], value: Callable[[Evaluation], float], style: dict[str, Any]) -> Points:
    if len(runs) > 1:
        for run in runs:
            line = [(e.samples, value(e)) for e in run.evaluations]
            axis.plot([p[0] for p in line], [p[1] for p in line], color=style["color"], linewidth=0.6, alpha=0.35)
    points = mean_curve(runs, value)
    axis.plot([p[0] for p in points], [p[1] for p in points], linewidth=1.6, **style)
    return points


def _draw_switches(axis: Axes, experiment: Experiment, styles: dict[str, dict[str, Any]]) -> None:
    """Ticks at the bottom where the first seed of an arm changed stage, one level an arm: equal steps stay visible."""
    staged = [(arm, runs[0]) for arm in styles if (runs := experiment.of_arm(arm)) and len(runs[0].stages) > 1]
    for level, (arm, run) in enumerate(staged):
        for entry in run.stages:
            if entry.step > 0:
                low = 0.06 * level
                axis.axvline(entry.samples, ymin=low, ymax=low + 0.05, color=styles[arm]["color"], linewidth=2.5)


def _legend(figure: Figure, styles: dict[str, dict[str, Any]], experiment: Experiment, extra: list[Line2D]) -> None:
    there = [arm for arm in experiment.trained_arms if any(run.evaluations for run in experiment.of_arm(arm))]
    lines = [Line2D([], [], linewidth=1.8, label=arm, **styles[arm]) for arm in there]
    figure.legend(handles=[*lines, *extra], loc="outside upper left", ncols=min(6, len(lines) + len(extra)))


def _stack_order(experiment: Experiment, runs: Sequence[Run]) -> list[str]:
    """Datasets as they enter in the first staged run, so that a group is one band; by name without stages."""
    staged = next((run for run in runs if len(run.stages) > 1), None)
    entering = [name for entry in staged.stages for name in entry.pool] if staged else []
    return list(dict.fromkeys([*entering, *experiment.datasets]))

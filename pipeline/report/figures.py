"""Figures without curves: saving in three formats, the affinity heatmap, the time-to-target bars.

Every figure is written as PNG (for the page), PDF (for print) and CSV (the numbers drawn), each atomically and with
the same bytes for the same input. Nothing here uses pyplot: no global state, no display.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from scipy import stats
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from pipeline.atomic import write_atomic
from pipeline.errors import AffinityError
from pipeline.report.cost import Cost, Judgement, Measure, RunCosts
from pipeline.report.palette import STYLE, arm_styles
from pipeline.report.runs import Experiment

Matrix = npt.NDArray[np.float64]
# More cells than this a side cannot hold a printed number.
MAX_PRINTED = 18
# More arms than this have one colour beside the baseline's.
MAX_COLORED = 7


@dataclass(frozen=True)
class FigureFile:
    """A written figure: `stem` without suffix, words for a reader who cannot see it, and what to look for."""

    stem: Path
    title: str
    alt: str
    caption: str


@dataclass(frozen=True)
class AffinityView:
    """What the report shows of an affinity version. Matrices are [D, D] in the order of `names`.

    `interval_low` and `interval_high` bound the similarity; None when it was estimated without resamples.
    """

    names: Sequence[str]
    similarity: Matrix
    groups: list[list[str]]
    interval_low: Matrix | None = None
    interval_high: Matrix | None = None
    version: str = ""
    verdict: str = ""


def save_figure(
    draw: Callable[[], Figure], stem: Path, header: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """Write `<stem>.png`, `.pdf` and `.csv` (`header` and `rows` are the numbers drawn)."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = draw()
        png, pdf = io.BytesIO(), io.BytesIO()
        FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
        FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomic(stem.with_name(stem.name + ".png"), png.getvalue())
    write_atomic(stem.with_name(stem.name + ".pdf"), pdf.getvalue())
    write_atomic(stem.with_name(stem.name + ".csv"), table.getvalue().encode())


def heatmap(
    names: Sequence[str],
    similarity: Matrix,
    interval_low: Matrix | None,
    interval_high: Matrix | None,
    groups: list[list[str]],
    path: Path,
) -> None:
    """Similarity between datasets, groups boxed and in their order, and beside it how wide its intervals are.

    Inside a group the datasets stand in the leaf order of average linkage on 1 - similarity, so the like are
    neighbours. NaN (an undefined cosine) is drawn grey.

    Args:
        path: stem of the files; `.png`, `.pdf` and `.csv` are added.

    Raises:
        AffinityError: a matrix is not [D, D], or the groups do not hold every name exactly once.
    """
    _check_affinity(names, [similarity, interval_low, interval_high], groups)
    ordered = [name for group in groups for name in _leaf_order(group, names, similarity)]
    index = [list(names).index(name) for name in ordered]
    shown = similarity[np.ix_(index, index)]
    low = None if interval_low is None else interval_low[np.ix_(index, index)]
    high = None if interval_high is None else interval_high[np.ix_(index, index)]
    sizes = [len(group) for group in groups]

    def draw() -> Figure:
        """The matrix, and beside it the width of its intervals where there are any."""
        panels = 1 if low is None or high is None else 2
        side = max(3.6, min(0.34 * len(ordered) + 1.2, 14.0))
        figure = Figure(figsize=(panels * (side + 1.5), side + 1.3), dpi=130, layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        _draw_matrix(axes[0], shown, ordered, sizes, "Similarity of gradients (1: the same)", "cividis", None)
        if low is not None and high is not None:
            _draw_matrix(axes[1], high - low, ordered, sizes, "Width of its interval", "Purples", 0.0)
        return figure

    rows = (
        (a, b, shown[i, j], "" if low is None else low[i, j], "" if high is None else high[i, j])
        for i, a in enumerate(ordered)
        for j, b in enumerate(ordered)
    )
    save_figure(draw, path, ("dataset", "other", "similarity", "interval_low", "interval_high"), rows)


def affinity_figure(view: AffinityView, path: Path) -> FigureFile:
    """The heatmap of an affinity version."""
    heatmap(view.names, view.similarity, view.interval_low, view.interval_high, view.groups, path)
    return FigureFile(
        path,
        f"Affinity between datasets {view.version}".strip(),
        "Matrix of gradient similarity between datasets with the groups boxed, and the width of its intervals.",
        "Boxes: groups in the order in which they enter. Inside a group neighbours are alike. A pair whose "
        "interval is as wide as the differences around it says nothing.",
    )


def target_bars(experiment: Experiment, judgement: Judgement, path: Path) -> FigureFile:
    """Cost to target by arm, in samples and in training time; hollow bars did not get there."""
    arms = [arm for arm in experiment.trained_arms if judgement.of_arm(arm)]
    styles = arm_styles(experiment.trained_arms, judgement.baseline)
    crowded = len(arms) > MAX_COLORED
    panels: tuple[tuple[Measure, str], ...] = (("samples", "samples to target"), ("wall_s", "training time to target"))

    def draw() -> Figure:
        """Both costs side by side, an arm a row."""
        height = 1.5 + (0.36 if crowded else 0.62) * max(len(arms), 1)
        figure = Figure(figsize=(11, height), dpi=130, layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, (measure, label) in zip(axes, panels, strict=True):
            for row, arm in enumerate(arms):
                # So many colours would repeat, and a repeated one would say that two arms belong together.
                color = styles[arm if arm == judgement.baseline or not crowded else arms[-1]]["color"]
                _draw_bar(axis, row, list(judgement.of_arm(arm).values()), measure, color)
            axis.set_xlim(0, axis.get_xlim()[1] * 1.02)
            axis.grid(axis="y", visible=False)
            label_axis(axis, measure, label)
        axes[0].set_yticks(range(len(arms)), arms)
        axes[0].set_ylim(len(arms) - 0.4, -0.6)
        return figure

    rows = []
    for arm in arms:
        for seed, costs in judgement.of_arm(arm).items():
            cost, probe = costs.target.together, costs.probe
            numbers = (cost.samples, cost.wall_s) if cost else ("not reached", "not reached")
            rows.append((arm, seed, *numbers, probe.samples if probe else 0, probe.wall_s if probe else 0))
    header = ("arm", "seed", "samples", "wall_s", "of_it_probe_samples", "of_it_probe_wall_s")
    save_figure(draw, path, header, rows)
    return FigureFile(
        path,
        "Cost to target",
        "Bars of samples and training time each arm needs until every dataset meets its target.",
        "Filled: mean over the seeds that reached the target, dots are seeds, the hatched start is the probe, whiskers "
        "the 95 % t interval (three seeds or more). Hollow: not reached; the bar is the whole budget.",
    )


def label_axis(axis: Axes, measure: Measure, label: str) -> None:
    """Label and readable ticks of an x axis: `12k` samples; seconds, minutes or hours, whichever fits its range."""
    size, unit = 1.0, ""
    if measure == "wall_s":
        longest = axis.get_xlim()[1]
        size, unit = (3600.0, "h") if longest >= 7200 else (60.0, "min") if longest >= 120 else (1.0, "s")
        # Ticks at round numbers of the unit, not of seconds.
        axis.xaxis.set_major_locator(MultipleLocator(size * _round_step(longest / size / 5)))
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: thousands(x / size)))
    axis.set_xlabel(f"{label} ({unit})" if unit else label)


def thousands(value: float) -> str:
    """`950`, `1.5k`, `24k`, `1.2M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next((m * power for m in (1.0, 2.0, 5.0) if m * power >= least), 10.0 * power)


def _draw_bar(axis: Axes, row: int, costs: Sequence[RunCosts], measure: Measure, color: str) -> None:
    reached = _known([c.target.together for c in costs], measure)
    if not reached:
        budget = float(np.mean(_known([c.own_stop for c in costs], measure)))
        axis.barh(row, budget, height=0.55, facecolor="none", edgecolor=color, linewidth=1.2)
        worst = min(costs, key=lambda c: c.target.most_together).target
        label = f"not reached (at most {worst.most_together} of {worst.n_datasets} datasets at once)"
        axis.text(budget * 0.02, row, label, va="center", fontsize=8)
        return
    mean = float(np.mean(reached))
    axis.barh(row, mean, height=0.55, color=color, alpha=0.55)
    probes = _known([c.probe for c in costs], measure)
    if probes:
        axis.barh(
            row, float(np.mean(probes)), height=0.55, facecolor="none", edgecolor="white", hatch="////", linewidth=0
        )
    if len(reached) >= 3:
        half = float(stats.t.ppf(0.975, len(reached) - 1)) * float(np.std(reached, ddof=1)) / math.sqrt(len(reached))
        axis.errorbar(mean, row, xerr=half, color="#222222", capsize=3, linewidth=1)
    axis.plot(reached, [row + 0.17] * len(reached), "o", color="white", markeredgecolor="#222222", markersize=4)
    if len(reached) < len(costs):
        axis.text(
            mean * 0.02, row - 0.12, f"{len(reached)} of {len(costs)} seeds", va="center", fontsize=8, color="white"
        )


def _known(costs: Sequence[Cost | None], measure: Measure) -> list[float]:
    values = [cost.get(measure) for cost in costs if cost is not None]
    return [value for value in values if value is not None]


def _check_affinity(names: Sequence[str], matrices: Sequence[Matrix | None], groups: list[list[str]]) -> None:
    expected = (len(names), len(names))
    for matrix in matrices:
        if matrix is not None and matrix.shape != expected:
            raise AffinityError("an affinity matrix does not fit its datasets", got=matrix.shape, expected=expected)
    grouped = sorted(name for group in groups for name in group)
    if grouped != sorted(names):
        raise AffinityError("groups must hold every dataset exactly once", got=grouped, expected=sorted(names))


def _leaf_order(group: Sequence[str], names: Sequence[str], similarity: Matrix) -> list[str]:
    if len(group) < 3:
        return list(group)
    index = [list(names).index(name) for name in group]
    block = np.nan_to_num(similarity[np.ix_(index, index)], nan=0.0)
    apart = 1.0 - (block + block.T) / 2
    np.fill_diagonal(apart, 0.0)
    tree = linkage(squareform(np.maximum(apart, 0.0), checks=False), method="average", optimal_ordering=True)
    return [group[leaf] for leaf in leaves_list(tree)]


def _draw_matrix(
    axis: Axes, values: Matrix, names: Sequence[str], sizes: Sequence[int], title: str, colors: str, least: float | None
) -> None:
    """One matrix with its groups boxed; `least` is the lower end of the colours, None for the smallest value."""
    n = len(names)
    shown = values.copy()
    # The diagonal is 1 by definition and would only stretch the scale.
    np.fill_diagonal(shown, np.nan)
    palette = mpl.colormaps[colors].with_extremes(bad="#D9D9D9")
    finite = shown[np.isfinite(shown)]
    bounds = (float(finite.min()) if least is None else least, float(finite.max())) if finite.size else (0.0, 1.0)
    image = axis.imshow(shown, cmap=palette, vmin=bounds[0], vmax=bounds[1])
    axis.set_title(title, loc="left")
    axis.set_xticks(range(n), names, rotation=90)
    axis.set_yticks(range(n), names)
    axis.tick_params(length=0, labelsize=8 if n <= 40 else 5)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.figure.colorbar(image, ax=axis, shrink=0.75, pad=0.02)
    start = 0
    for number, size in enumerate(sizes, start=1):
        corner = (start - 0.5, start - 0.5)
        axis.add_patch(Rectangle(corner, size, size, fill=False, edgecolor="white", linewidth=4.5, clip_on=False))
        axis.add_patch(Rectangle(corner, size, size, fill=False, edgecolor="#D55E00", linewidth=2, clip_on=False))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.9}
        label: dict[str, Any] = {"color": "#B34700", "fontsize": 8, "fontweight": "bold", "bbox": box}
        # The diagonal cell of a group's first dataset is empty: room for the group's name.
        axis.text(start, start, f"G{number}", ha="center", va="center", **label)
        start += size
    if n <= MAX_PRINTED:
        _print_values(axis, shown, bounds, palette)


def _print_values(axis: Axes, values: Matrix, bounds: tuple[float, float], palette: mpl.colors.Colormap) -> None:
    for (i, j), value in np.ndenumerate(values):
        if not math.isfinite(value):
            continue
        share = (value - bounds[0]) / (bounds[1] - bounds[0] or 1.0)
        red, green, blue = palette(share)[:3]
        bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        label = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.1f}"
        axis.text(j, i, label, ha="center", va="center", fontsize=6, color="black" if bright else "white")

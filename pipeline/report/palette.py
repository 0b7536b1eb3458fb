"""Colours that stay apart for colour-blind readers, and the look all figures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl

# Okabe and Ito (2008), black first: the baseline. Yellow is left out, it is unreadable as a line on white.
_ARMS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
# Paul Tol's discrete rainbow with 14 colours, reordered nowhere: neighbours in a stack stay distinguishable.
_DATASETS = (
    "#D1BBD7", "#AE76A3", "#882E72", "#1965B0", "#5289C7", "#7BAFDE", "#4EB265",
    "#90C987", "#CAE0AB", "#F7F056", "#F6C141", "#F1932D", "#E8601C", "#DC050C",
)  # fmt: skip

# Typed loosely: the names of the settings are a closed literal only in newer matplotlib.
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
    # Names are data: a dollar sign in one must not start a formula.
    "text.parse_math": False,
}


def arm_styles(arms: Sequence[str], baseline: str) -> dict[str, dict[str, Any]]:
    """Colour and dash of each arm; the baseline is solid black whatever the others are."""
    ordered = [baseline, *(arm for arm in arms if arm != baseline)]
    return {
        arm: {"color": _ARMS[i % len(_ARMS)], "linestyle": _DASHES[(i % len(_ARMS) + i // len(_ARMS)) % len(_DASHES)]}
        for i, arm in enumerate(ordered)
    }


def dataset_colors(datasets: Sequence[str]) -> dict[str, Any]:
    """One colour a dataset, the same in every panel; beyond 14 an even walk through a colour-blind safe map."""
    n = len(datasets)
    if n <= len(_DATASETS):
        step = len(_DATASETS) / max(n, 1)
        return {name: _DATASETS[int(i * step)] for i, name in enumerate(datasets)}
    colors = mpl.colormaps["cividis"]
    return {name: colors(i / (n - 1)) for i, name in enumerate(datasets)}

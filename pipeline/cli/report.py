"""`gst report`: tables, figures and one page from the runs of an experiment folder."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pipeline.affinity.grouping import similarity_of
from pipeline.affinity.versions import AffinityVersion, has_versions, load_version
from pipeline.report.build import build_report
from pipeline.report.figures import AffinityView


def report(
    out: Annotated[Path, typer.Argument(help="Experiment folder (the recipes' `out`).")],
    baseline: Annotated[str, typer.Option(help="Arm that sets the target.")] = "mix_all",
    eps: Annotated[float, typer.Option(help="Target: within this share of the baseline's best loss.")] = 0.02,
    arms: Annotated[str, typer.Option(help="Arms that should be there, so that a missing one shows.")] = "",
) -> None:
    """Write <out>/report and print the tables."""
    folder = out / "affinity"
    version = load_version(folder) if has_versions(folder) else None
    built = build_report(
        out,
        out / "report",
        baseline=baseline,
        eps=eps,
        affinity=affinity_view(version) if version else None,
        arms=[name for name in arms.split(",") if name],
        machine=machine_summary(),
        commands=["bash run.sh", f"gst report {out}"],
    )
    print(built.text)
    print(f"report: {out / 'report' / 'report.html'} and report.md beside it")


def affinity_view(version: AffinityVersion) -> AffinityView:
    """What the heatmap shows of a version: similarities with their intervals."""
    metric = version.grouping.metric or "distance"
    low, high = (version.intervals.get(f"{metric}_{side}") for side in ("low", "high"))
    if low is not None and high is not None:
        if metric == "cosine":
            low, high = (1 + low) / 2, (1 + high) / 2
        else:  # a large distance is a small similarity: the bounds change places
            distance = version.estimate.distance_sq
            scale = np.median(distance[~np.eye(len(distance), dtype=bool)])
            low, high = np.exp(-np.maximum(high, 0) / scale), np.exp(-np.maximum(low, 0) / scale)
    similarity = similarity_of(version.estimate, metric)
    return AffinityView(version.datasets, similarity, version.groups, low, high, version.id, version.verdict)


def machine_summary() -> str:
    """The machine that makes the report: usually the one the runs were timed on."""
    cores = len(os.sched_getaffinity(0))
    return f"{platform.system()} {platform.machine()}, {cores} CPU cores, Python {platform.python_version()}"

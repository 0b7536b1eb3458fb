"""`gst report`: tables, figures and one page from the runs of an experiment folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pipeline.affinity.grouping import similarity_of
from pipeline.affinity.versions import AffinityVersion, has_versions, load_version
from pipeline.cli.mlflow_sync import send_report, sync_runs
from pipeline.config.grid import GRID_FILE, load_grid
from pipeline.report.build import build_report
from pipeline.report.figures import AffinityView
from pipeline.report.paper.build import GridReport, build_grid_report


def report(
    out: Annotated[Path, typer.Argument(help="Experiment folder (the recipes' `out`), or the folder of a grid.")],
    baseline: Annotated[str, typer.Option(help="Arm that sets the target; a grid names its own.")] = "mix_all",
    eps: Annotated[float, typer.Option(help="Target: within this share of the baseline's best loss.")] = 0.02,
    arms: Annotated[str, typer.Option(help="Arms that should be there, so that a missing one shows.")] = "",
    any_code: Annotated[bool, typer.Option("--any-code", help="Take runs whatever code they were made with.")] = False,
    sync: Annotated[bool, typer.Option("--sync", help="First send to MLflow what it lacks of the runs.")] = False,
    tracking_uri: Annotated[str | None, typer.Option(help="Of MLflow; default: as each run's recipe says.")] = None,
) -> None:
    """Write <out>/report and print the tables."""
    if sync:
        sync_runs(out, tracking_uri)
    if (out / GRID_FILE).is_file():
        report_grid(out, commands=[f"gst report {out}"], eps=eps, any_code=any_code, tracking_uri=tracking_uri)
        return
    built = build_report(
        out,
        out / "report",
        baseline=baseline,
        eps=eps,
        affinity=_newest_affinity(out),
        arms=[name for name in arms.split(",") if name],
        machine=machine_summary(),
        commands=["bash run.sh", f"gst report {out}"],
        any_code=any_code,
    )
    _tell(built.text, built.folder)
    send_report(out, tracking_uri)


def report_grid(
    out: Path,
    *,
    commands: Sequence[str] = (),
    eps: float = 0.02,
    any_code: bool = False,
    tracking_uri: str | None = None,
) -> GridReport:
    """Write the report of a grid and print its head and its tables; raises what `build_grid_report` does."""
    study = load_grid(out).agreement
    built = build_grid_report(
        out,
        machine=machine_summary(),
        commands=commands,
        any_code=any_code,
        eps=eps,
        affinity=_newest_affinity(out / study) if study else None,
    )
    _tell(built.text, built.folder)
    send_report(out, tracking_uri)
    return built


def _newest_affinity(experiment: Path) -> AffinityView | None:
    folder = experiment / "affinity"
    return affinity_view(load_version(folder)) if has_versions(folder) else None


def _tell(shown: str, folder: Path) -> None:
    print(shown)
    print(f"report: {folder / 'report.html'} and report.md beside it")


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

"""`gst report`: tables, figures and one page from the runs of an experiment folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.affinity.store import has_versions, load_version
from pipeline.report.build import build_report


def report(
    out: Annotated[Path, typer.Argument(help="Experiment folder (the recipes' `out`).")],
    baseline: Annotated[str, typer.Option(help="Arm that sets the target.")] = "mix_all",
    eps: Annotated[float, typer.Option(help="Target: within this share of the baseline's best loss.")] = 0.02,
) -> None:
    """Write <out>/report and print the tables."""
    folder = out / "affinity"
    version = load_version(folder, "latest") if has_versions(folder) else None
    built = build_report(out, out / "report", baseline=baseline, eps=eps, affinity=version)
    print(built.text)
    print(f"report:  {out / 'report' / 'report.html'}")
    print(f"         {out / 'report' / 'report.md'}")

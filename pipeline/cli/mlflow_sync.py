"""What `gst report` sends to MLflow: the report, and with `--sync` whatever runs could not send themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import load_recipe
from pipeline.errors import ConfigError, TrackingError
from pipeline.runlog import RunFolder, mlflow_sync


def sync_runs(out: Path, tracking_uri: str | None = None) -> None:
    """Bring the tracking store up to date with every run of an experiment folder or grid; prints what was sent.

    Args:
        tracking_uri: None: that of each run's recipe.

    Raises:
        ConfigError: there are no runs.
        TrackingError: the store is not reachable; what was sent stays there, and the rest goes at the next call.
    """
    n_runs = 0
    for folder in run_folders(out):
        sent = mlflow_sync.sync_run(folder, tracking_uri or folder.tracking_uri)
        print(f"{folder.path}: {sent} points sent to MLflow{'' if sent else ', nothing was missing'}", flush=True)
        n_runs += 1
    if not n_runs:
        raise ConfigError(
            "nothing was trained here",
            where={"folder": out},
            expected="an experiment folder, such as runs/mini, or a grid's",
        )


def send_report(out: Path, tracking_uri: str | None = None) -> None:
    """Put <out>/report among the artifacts of the folder's MLflow run, if any of its runs is in MLflow.

    A store that is not reachable is no error: the report is written.
    """
    folder = next((each for each in run_folders(out) if each.info.get("mlflow_run_id")), None)
    if folder is None:
        return
    uri = tracking_uri or folder.tracking_uri
    try:
        mlflow_sync.send_report(out / "report", out, folder.recipe.logging.experiment, uri)
    except TrackingError as error:
        print(f"the report is not in MLflow: {error}")


def run_folders(out: Path) -> Iterator[RunFolder]:
    """The runs of an experiment folder, or of all studies of a grid; says which cannot be read."""
    for arms in (out / "arms", *sorted(out.glob("*/arms"))):
        for file in sorted(arms.glob("*/run.json")):
            try:
                where = f"out={json.dumps(str(arms.parent))}"  # the folder may have been moved since
                folder = RunFolder(file.parent, load_recipe(file.with_name("recipe.yaml"), [where]))
                folder.check()
            except (ConfigError, ValueError, KeyError, OSError) as error:
                print(f"{file.parent}: left out, because it cannot be read: {error}")
                continue
            yield folder

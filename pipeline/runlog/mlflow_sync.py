"""Bringing a tracking store up to date with what runs left on disk, after an outage or from nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.atomic import write_atomic
from pipeline.errors import TrackingError
from pipeline.runlog.mlflow_run import SeedRun
from pipeline.runlog.mlflow_store import PATIENT_LIMITS, SHORT_LIMITS, RunTree, hide_password
from pipeline.runlog.run_folder import RunFolder

REPORT = "report"


def sync_run(folder: RunFolder, uri: str) -> int:
    """Send what the store lacks of one run, which is made there when it is missing.

    Safe to kill and repeat, and beside a run in progress: a point is sent under the time of its event, so that twice
    the same is one.

    Returns:
        How many points were sent.

    Raises:
        TrackingError: the store is not reachable or refuses it; nothing is lost.
    """
    with _named(uri):
        run = SeedRun(RunTree(uri, folder.recipe.logging.experiment, folder.experiment, PATIENT_LIMITS), folder)
        run.describe()
        missing = run.missing()
        run.send(missing)
        if folder.is_finished:
            _remember(folder, run.id)
            if run.status != "FINISHED":
                run.end("FINISHED", folder.info["finished"])
        run.upload()
    return len(missing)


def send_report(report: Path, folder: Path, experiment: str, uri: str) -> None:
    """Put a report's files among the artifacts of the folder's run, in place of those of an earlier report.

    Args:
        folder: the experiment folder, or the grid's.
        experiment: name of the MLflow experiment.

    Raises:
        TrackingError: as `sync_run`.
    """
    with _named(uri):
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        tree = RunTree(uri, experiment, folder, SHORT_LIMITS)
        run = tree.folder_run(folder)
        tree.client.log_artifacts(run.info.run_id, str(report), REPORT)
        new = {f"{REPORT}/{path.relative_to(report).as_posix()}" for path in report.rglob("*") if path.is_file()}
        artifacts = get_artifact_repository(run.info.artifact_uri, tracking_uri=uri)
        for stale in set(_files_below(tree.client, run.info.run_id, REPORT)) - new:
            artifacts.delete_artifacts(stale)


def _files_below(client: Any, run_id: str, path: str) -> Iterator[str]:
    for each in client.list_artifacts(run_id, path):
        if each.is_dir:
            yield from _files_below(client, run_id, each.path)
        else:
            yield each.path


def _remember(folder: RunFolder, run_id: str) -> None:
    """Note in `run.json` where the run is, for the report."""
    info = folder.info
    if info.get("mlflow_run_id") != run_id:
        write_atomic(
            folder.path / "run.json", (json.dumps({**info, "mlflow_run_id": run_id}, indent=1) + "\n").encode()
        )


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """What the store's libraries raise, as an error that names the store."""
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, requests.RequestException, OSError) as error:
        raise TrackingError(
            "the MLflow tracking store cannot be reached, or refuses what is sent",
            where={"tracking URI": hide_password(uri, uri)},
            got=hide_password(" ".join(str(error).split()), uri)[:400],
            hint="nothing is lost: run `gst report --sync` again when it is up, or name another with --tracking-uri",
        ) from None

"""A tracking store: connecting to it, and finding or making the runs of a folder in it, one each.

    experiment (`logging.experiment`) > [grid >] experiment folder > arm > arm and seed

Every process of a grid or experiment takes a lock in its folder while it looks for runs and makes them, so that two
that start together make one of each. That holds wherever the folder's file system honours `flock` (local disks, NFSv4,
Lustre mounted with it); elsewhere two simultaneous first starts can make two, and the older one is used from then on.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from pipeline.runlog import mlflow_entities as shown
from pipeline.runlog.run_folder import RunFolder, derived_id, folder_id, grid_folder, is_grid, store_folder

ID, KIND, PLACE, SUPERSEDED = "audio_gst.id", "audio_gst.kind", "audio_gst.place", "audio_gst.superseded_by"
PARENT = "mlflow.parentRunId"
LOCK_FILE, LOCK_S = "mlflow.lock", 60.0
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
# MLflow's own limits are 120 s for a request and 7 retries, for minutes: too long for training to wait. The user's
# settings come first.
SHORT_LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
PATIENT_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_DISABLE_AGENT_HINTS": "true"}


def connect(uri: str, limits: dict[str, str]) -> Any:
    """A client of the store.

    Raises:
        Exception: whatever MLflow and SQLAlchemy raise when a database is not there; a server is not asked yet.
    """
    for name, value in {**QUIET, **limits}.items():
        os.environ.setdefault(name, value)
    import mlflow

    logging.getLogger("alembic").setLevel(logging.WARNING)
    if uri.split(":")[0].split("+")[0] in DATABASES:
        _check_database(uri)
    return mlflow.MlflowClient(tracking_uri=uri)


def _check_database(uri: str) -> None:
    """Fail at once where MLflow would try for two minutes."""
    import sqlalchemy

    url = sqlalchemy.engine.make_url(uri)
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sqlalchemy.create_engine(url)
    sqlalchemy.inspect(engine).get_table_names()
    engine.dispose()


def hide_password(text: str, uri: str) -> str:
    """A message about the store at `uri`, fit to be shown."""
    password = urlsplit(uri).password
    return text.replace(f":{password}@", ":***@") if password else text


class RunTree:
    """The runs of one grid or experiment folder in one store, made where they are not there.

    Args:
        experiment: name of the MLflow experiment.
        folder: the experiment folder (or the grid's).
        limits: of requests to a server, as environment variables.

    Raises:
        Exception: whatever MLflow and SQLAlchemy raise when the store is not reachable; so do all methods.
    """

    def __init__(self, uri: str, experiment: str, folder: Path, limits: dict[str, str]) -> None:
        self._place = store_folder(folder)
        with self._lock():
            self.client = connect(uri, limits)
            self._experiment_id = self._experiment(experiment, is_server=uri.startswith(("http:", "https:")))

    def seed_run(self, folder: RunFolder) -> Any:
        """The run of this training; that of an earlier training in the same folder is marked as superseded."""
        place = derived_id(folder_id(folder.experiment), "place", folder.path.name)
        started_ms = round(folder.info["started"] * 1000)
        with self._lock():
            arm = self._arm_run(folder, started_ms)
            tags = {PLACE: place, shown.NOTE: shown.seed_note(folder)}
            found = self._run("seed", folder.id, shown.seed_name(folder), arm.info.run_id, tags, started_ms)
            for old in self._search(PLACE, place):
                if old.data.tags[ID] != folder.id and SUPERSEDED not in old.data.tags:
                    self._supersede(old, found)
        return found

    def folder_run(self, folder: Path) -> Any:
        """The run of an experiment folder or of a grid."""
        with self._lock():
            return self._folder_run(folder, None)

    def settle(self, run_id: str) -> None:
        """Give everything above a run the status that its children have together."""
        with self._lock():
            while above := self.client.get_run(run_id).data.tags.get(PARENT):
                children = [each for each in self._search(PARENT, above) if SUPERSEDED not in each.data.tags]
                statuses = {each.info.status for each in children}
                if "RUNNING" in statuses:
                    self.client.update_run(above, status="RUNNING")
                else:
                    ended = [each.info.end_time for each in children if each.info.end_time]
                    status = "FINISHED" if statuses <= {"FINISHED"} else "FAILED"
                    self.client.set_terminated(above, status, max(ended, default=None))
                run_id = above

    def _folder_run(self, folder: Path, started_ms: int | None) -> Any:
        kind, note = ("grid", shown.grid_note) if is_grid(folder) else ("experiment", shown.experiment_note)
        grid = grid_folder(folder)
        above = self._folder_run(grid, started_ms).info.run_id if grid else None
        return self._run(
            kind, folder_id(folder), shown.experiment_name(folder), above, {shown.NOTE: note(folder)}, started_ms
        )

    def _arm_run(self, folder: RunFolder, started_ms: int) -> Any:
        above = self._folder_run(folder.experiment, started_ms).info.run_id
        name = derived_id(folder_id(folder.experiment), "arm", folder.recipe.arm)
        tags = {"arm": folder.recipe.arm, shown.NOTE: shown.arm_note(folder)}
        return self._run("arm", name, shown.arm_name(folder), above, tags, started_ms)

    def _run(
        self, kind: str, name: str, run_name: str, above: str | None, tags: dict[str, str], started_ms: int | None
    ) -> Any:
        found = self._search(ID, name)
        if found:
            return found[0]
        tags = {**tags, ID: name, KIND: kind, **({PARENT: above} if above else {})}
        return self.client.create_run(self._experiment_id, started_ms, tags, run_name)

    def _search(self, tag: str, value: str) -> list[Any]:
        """Runs with this tag, the oldest first. Values are hexadecimal, so that nothing needs quoting."""
        return self.client.search_runs(
            [self._experiment_id], f"tags.`{tag}` = '{value}'", order_by=["attributes.start_time ASC"]
        )

    def _supersede(self, old: Any, new: Any) -> None:
        self.client.set_tag(old.info.run_id, SUPERSEDED, new.info.run_id)
        status = "KILLED" if old.info.status == "RUNNING" else old.info.status
        self.client.update_run(old.info.run_id, status, f"(superseded) {old.info.run_name}")

    def _experiment(self, name: str, *, is_server: bool) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:  # a server knows by itself where artifacts go
            artifacts = None if is_server else (self._place / "mlartifacts").as_uri()
            try:
                return self.client.create_experiment(name, artifact_location=artifacts)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)
        return found.experiment_id

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with open(self._place / LOCK_FILE, "a") as file:
            _take(file)
            yield


def _take(file: IO[str]) -> None:
    """Lock `file` until it is closed; where the file system has no locks, go on without."""
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process has held {file.name} for {LOCK_S:.0f} s") from None
            time.sleep(0.05)
        except OSError:
            return

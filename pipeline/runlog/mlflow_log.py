"""MLflow while a run trains, from rank 0. A store that is down never stops training: the JSONL log has it all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.runlog.mlflow_run import SeedRun
from pipeline.runlog.mlflow_store import SHORT_LIMITS, RunTree, hide_password
from pipeline.runlog.run_folder import RunFolder

PAUSE_S = 600.0  # after a failure, twice as long after each further one: waiting for a store must stay a small share

_LOG = logging.getLogger("pipeline.runlog")


class MlflowLog:
    """The run of one arm and seed, below its arm and experiment folder.

    A call that fails is reported once and leaves a gap; the store is asked again after a pause, and
    `gst report --sync` fills the gap.

    Args:
        folder: with `run.json` in it.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._run: SeedRun | None = None
        self._failures = 0
        self._silent_until = 0.0
        self._try(lambda run: None)

    @property
    def run_id(self) -> str | None:
        """In the store; None when it could not be reached yet."""
        return self._run.id if self._run else None

    def event(self, event: Mapping[str, Any]) -> None:
        """Send the metrics of an event that was just written to the run's log."""
        if time.monotonic() >= self._silent_until:
            self._try(lambda run: run.log(event))

    def finish(self) -> None:
        """Send the result and the run's files, and close the run."""

        def close(run: SeedRun) -> None:
            if result := self._folder.result():
                run.log(result)
            run.describe()  # an outage may have been when the run began
            run.end("FINISHED")
            run.upload()

        self._try(close)

    def stop(self, status: str) -> None:
        """Close the run without a result, as `FAILED` or `KILLED`."""
        self._try(lambda run: run.end(status))

    def _start(self) -> None:
        folder = self._folder
        tree = RunTree(folder.tracking_uri, folder.recipe.logging.experiment, folder.experiment, SHORT_LIMITS)
        self._run = SeedRun(tree, folder)  # kept when what follows fails, such as files that find no place
        self._run.begin()

    def _try(self, call: Callable[[SeedRun], None]) -> None:
        try:
            if self._run is None:
                self._start()
            assert self._run is not None
            call(self._run)
        except Exception as error:  # whatever the store does, training must not stop
            self._silent_until = time.monotonic() + PAUSE_S * 2**self._failures
            self._failures += 1
            if self._failures == 1:
                _LOG.warning(
                    "MLflow is not reachable; going on without it. The run's log has everything, and "
                    "`gst report %s --sync` sends it later: %s",
                    self._folder.experiment,
                    hide_password(str(error), self._folder.tracking_uri),
                )

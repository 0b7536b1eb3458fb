"""MLflow from rank 0. The tracking store is a convenience: when it fails, training goes on and the JSONL has it all."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Recipe, dump_recipe

BATCH_LIMIT = 1000  # metrics in one request, MLflow's own bound

_LOG = logging.getLogger("pipeline.runlog")


class MlflowLog:
    """One MLflow run per arm and seed, child of one parent run per experiment folder.

    Every call is guarded: the first failure is reported once, and later calls do nothing.
    """

    def __init__(self, recipe: Recipe, run_name: str, tags: dict[str, str], resume_run_id: str | None = None) -> None:
        self.run_id: str | None = resume_run_id
        self._broken = False
        self._client: Any = None
        self._guard(lambda: self._start(recipe, run_name, tags))

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log numbers at the global optimizer step; keys may hold letters, digits and `_-./ `."""

        def send() -> None:
            from mlflow.entities import Metric
            from mlflow.utils.time import get_current_time_millis

            now = get_current_time_millis()
            metrics = [Metric(key, value, now, step) for key, value in values.items()]
            for start in range(0, len(metrics), BATCH_LIMIT):
                self._client.log_batch(self.run_id, metrics[start : start + BATCH_LIMIT])

        self._guard(send)

    def artifact(self, path: Path) -> None:
        self._guard(lambda: self._client.log_artifact(self.run_id, str(path)))

    def finish(self, status: str) -> None:
        self._guard(lambda: self._client.set_terminated(self.run_id, status))

    def _start(self, recipe: Recipe, run_name: str, tags: dict[str, str]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_AGENT_HINTS", "true")
        import mlflow

        uri = recipe.logging.tracking_uri or default_tracking_uri(Path(recipe.out))
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        experiment_id = self._experiment(recipe)
        if self.run_id is not None:
            self._client.update_run(self.run_id, status="RUNNING")
            return
        parent = self._parent(experiment_id, Path(recipe.out).name)
        run = self._client.create_run(
            experiment_id, run_name=run_name, tags={**tags, "mlflow.parentRunId": parent, "arm": recipe.arm}
        )
        self.run_id = run.info.run_id
        for key, value in _chosen_params(recipe).items():
            self._client.log_param(self.run_id, key, value)
        self._client.log_text(self.run_id, dump_recipe(recipe), "recipe.yaml")

    def _experiment(self, recipe: Recipe) -> str:
        found = self._client.get_experiment_by_name(recipe.logging.experiment)
        if found is not None:
            return found.experiment_id
        artifacts = (Path(recipe.out) / "mlartifacts").resolve()
        return self._client.create_experiment(recipe.logging.experiment, artifact_location=artifacts.as_uri())

    def _parent(self, experiment_id: str, name: str) -> str:
        found = self._client.search_runs([experiment_id], f"tags.audio_gst_parent = '{name}'", max_results=1)
        if found:
            return found[0].info.run_id
        run = self._client.create_run(experiment_id, run_name=name, tags={"audio_gst_parent": name})
        self._client.set_terminated(run.info.run_id)
        return run.info.run_id

    def _guard(self, call: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            call()
        except Exception as error:  # whatever the store does, training must not stop
            self._broken = True
            _LOG.warning("MLflow is not reachable; going on without it, the JSONL log has everything: %s", error)


def flat_numbers(prefix: str, tree: Mapping[str, Any]) -> dict[str, float]:
    """`{"a": {"b": 1.0}}` -> `{"<prefix>/a/b": 1.0}`; whatever is not a number is left out."""
    found: dict[str, float] = {}
    for name, value in tree.items():
        key = f"{prefix}/{name}"
        if isinstance(value, Mapping):
            found |= flat_numbers(key, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = float(value)
    return found


def default_tracking_uri(out: Path) -> str:
    """The experiment folder's own SQLite store."""
    return f"sqlite:///{(out / 'mlflow.db').resolve()}"


def _chosen_params(recipe: Recipe) -> dict[str, Any]:
    """The parameters people filter by; the whole recipe is an artifact."""
    return {
        "arm": recipe.arm,
        "model": recipe.model.path,
        "mode": recipe.model.mode,
        "max_steps": recipe.train.max_steps,
        "global_batch": recipe.train.global_batch,
        "micro_batch": recipe.train.micro_batch,
        "optimizer": recipe.train.optimizer.name,
        "lr": recipe.train.peak_lr,
        "seed": recipe.train.seed,
        "regime": recipe.schedule.regime,
        "grouping": recipe.schedule.grouping,
        "weights": recipe.schedule.weights.kind,
        "affinity_version": recipe.schedule.version,
    }

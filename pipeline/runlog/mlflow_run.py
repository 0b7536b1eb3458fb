"""One arm and seed in a tracking store: sending its points without doubles, its files and its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from pipeline.runlog.mlflow_entities import dataset_inputs, run_params, run_tags
from pipeline.runlog.mlflow_store import RunTree
from pipeline.runlog.run_folder import Point, RunFolder, points_of

BATCH_LIMIT = 1000  # metrics in one request, MLflow's own bound


class SeedRun:
    """A run of the store, found or made.

    Raises:
        Exception: whatever MLflow raises when the store is not reachable; so do all methods.
    """

    def __init__(self, tree: RunTree, folder: RunFolder) -> None:
        self._tree, self._client, self._folder = tree, tree.client, folder
        stored = tree.seed_run(folder)
        self.id: str = stored.info.run_id
        self.status: str = stored.info.status
        # metric -> largest step that the store has of it
        self._latest: dict[str, int] = {metric.key: metric.step for metric in stored.data.to_proto().metrics}

    def begin(self) -> None:
        """Say that the run runs, and what it is; the same again changes nothing."""
        self._client.update_run(self.id, status="RUNNING")
        self._tree.settle(self.id)
        self.describe()
        self.upload()

    def log(self, event: Mapping[str, Any]) -> None:
        """Send an event's metrics, unless the store has later ones: a resumed run repeats what it has done before."""
        new = [point for point in points_of(event) if point.step > self._latest.get(point.key, -1)]
        self.send(new)
        self._latest |= {point.key: point.step for point in new}

    def send(self, points: Iterable[Point]) -> None:
        from mlflow.entities import Metric

        waiting = iter(points)
        while batch := list(islice(waiting, BATCH_LIMIT)):
            self._client.log_batch(self.id, [Metric(each.key, each.value, each.t_ms, each.step) for each in batch])

    def missing(self) -> list[Point]:
        """The points of the run's log that the store has no value for at their step, in step order; gaps are seen."""
        wanted = {(point.key, point.step): point for point in self._folder.points()}
        for key in {key for key, _ in wanted} & self._latest.keys():
            for stored in self._client.get_metric_history(self.id, key):
                wanted.pop((key, stored.step), None)
        return sorted(wanted.values(), key=lambda point: (point.step, point.key))

    def describe(self) -> None:
        """Parameters, tags and datasets."""
        from mlflow.entities import Param, RunTag

        recipe, info = self._folder.recipe, self._folder.info
        params = [Param(key, str(value)) for key, value in run_params(recipe).items()]
        self._client.log_batch(self.id, params=params, tags=[RunTag(*tag) for tag in run_tags(info).items()])
        inputs = dataset_inputs(recipe, info)
        if inputs:
            self._client.log_inputs(self.id, inputs)

    def upload(self) -> None:
        """The run's files that the store lacks, or has in another size."""
        there = {each.path: each.file_size for each in self._client.list_artifacts(self.id)}
        for path in self._folder.artifacts():
            if there.get(path.name) != path.stat().st_size:
                self._client.log_artifact(self.id, str(path))

    def end(self, status: str, at_s: float | None = None) -> None:
        """`FINISHED`, `FAILED` or `KILLED`; what lies above follows when nothing else runs there."""
        self._client.set_terminated(self.id, status, None if at_s is None else round(at_s * 1000))
        self._tree.settle(self.id)

"""Shard tasks on a Ray cluster (extra `ray`); results come back as counts only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.planning.task import ShardDone, ShardTask
from data_prep.shards.write import write_shard
from pipeline.errors import ConfigError, GstError, ShardError

_MAX_RETRIES = 3


@dataclass(frozen=True)
class RayExecutor:
    """One CPU a shard, on the cluster at `address`: `$RAY_ADDRESS` without one, else a cluster on this machine."""

    address: str | None = None

    def share(self, tasks: Sequence[ShardTask]) -> Sequence[ShardTask]:
        return tasks

    def run(self, tasks: Sequence[ShardTask]) -> Iterator[tuple[ShardTask, ShardDone]]:
        """See `Executor.run`; ConfigError when Ray is not installed or no cluster is at `address`."""
        try:
            import ray
        except ImportError:
            raise ConfigError("Ray is not installed", hint="pip install 'audio-gst[ray]'") from None
        started_here = not ray.is_initialized()
        try:
            if started_here:
                ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
        except ConnectionError as error:
            raise ConfigError(
                f"no Ray cluster there: {error}", where={"option": "ray-address"}, got=self.address
            ) from None
        try:
            yield from _run(ray, tasks)
        finally:
            if started_here:
                ray.shutdown()


def _run(ray: Any, tasks: Sequence[ShardTask]) -> Iterator[tuple[ShardTask, ShardDone]]:
    # A node that dies costs its shard another try elsewhere; a disk that is full is the same on every try.
    remote = ray.remote(num_cpus=1, max_retries=_MAX_RETRIES)(write_shard)
    running = {remote.remote(task): task for task in tasks}
    try:
        while running:
            (reference,), _ = ray.wait(list(running))
            task = running.pop(reference)
            yield task, _result(ray, reference, task)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _result(ray: Any, reference: Any, task: ShardTask) -> ShardDone:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.as_instanceof_cause()
        if isinstance(error.cause, GstError):
            raise error.cause from None
        raise cause from None
    except ray.exceptions.RayError as error:
        raise ShardError(
            f"a Ray worker died: {type(error).__name__}",
            where={"shard": task.name},
            hint="look at the Ray logs; whole shards are kept, run again",
        ) from None

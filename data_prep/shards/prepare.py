"""The preparation: the shards of all planned corpora in one pool, and each dataset finished with its last shard."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from data_prep.output import writing
from data_prep.planning.plan import Plan
from data_prep.planning.task import ShardDone, ShardTask
from data_prep.shards.executors import Executor
from data_prep.shards.finish import Outcome, Thresholds, finish_dataset, open_dataset
from data_prep.shards.write import finished_side

OnShard = Callable[[ShardTask, ShardDone, bool], None]


def prepare(
    plans: Sequence[Plan],
    executor: Executor,
    *,
    thresholds: Thresholds | None = None,
    verify: bool = False,
    on_shard: OnShard | None = None,
) -> list[Outcome]:
    """Write the shards of `plans` that are this process' share, and finish every dataset that is then whole.

    Args:
        verify: read the shards that are there and compare their hashes, instead of their sizes only.
        on_shard: called with each shard as it ends; its last argument tells that it was there already.

    Returns the outcomes of the finished datasets; those of which other processes still write shards are not among them.

    Raises:
        ShardError: the output folder cannot be written, or a worker died.
    """
    run = _Run(plans, thresholds or Thresholds(), on_shard)
    with writing("the output folder", plans[0].folder):
        kept = {name: done for plan in plans for name, done in open_dataset(plan, verify=verify).items()}
        tasks = [task for plan in plans for task in plan.shards]
        for task in tasks:
            if task.name in kept:
                run.take_in(task, kept[task.name], kept=True)
        pending = [task for task in executor.share(tasks) if task.name not in kept]
        for task, done in executor.run(pending):
            run.take_in(task, done, kept=False)
        run.finish_what_others_wrote()
    return [run.outcomes[plan.dataset] for plan in plans if plan.dataset in run.outcomes]


class _Run:
    """Which shards of a preparation are there; a dataset is finished with its last one."""

    def __init__(self, plans: Sequence[Plan], thresholds: Thresholds, on_shard: OnShard | None) -> None:
        self._plans = {plan.dataset: plan for plan in plans}
        self._lacking = {plan.dataset: {task.name for task in plan.shards} for plan in plans}
        self._thresholds = thresholds
        self._on_shard = on_shard
        self.outcomes: dict[str, Outcome] = {}

    def take_in(self, task: ShardTask, done: ShardDone, *, kept: bool) -> None:
        """Note one shard; finishing at once means that a later crash costs that dataset nothing."""
        self._lacking[task.dataset].discard(task.name)
        if self._on_shard is not None:
            self._on_shard(task, done, kept)
        if not self._lacking[task.dataset]:
            self._finish(task.dataset)

    def finish_what_others_wrote(self) -> None:
        for dataset, lacking in self._lacking.items():
            tasks = [task for task in self._plans[dataset].shards if task.name in lacking]
            if tasks and all(finished_side(task) is not None for task in tasks):
                self._finish(dataset)

    def _finish(self, dataset: str) -> None:
        self.outcomes[dataset] = finish_dataset(self._plans[dataset], self._thresholds)

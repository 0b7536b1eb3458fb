"""The whole preparation: find corpora, plan all of them, write their shards in one pool, finish each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.adapters.base import Adapter
from data_prep.adapters.jsonl import METADATA_NAME, JsonlCorpus
from data_prep.executor import run
from data_prep.finish import Outcome, Thresholds, finish_dataset, open_dataset
from data_prep.plan import Plan, PlanOptions, ShardTask, make_plan
from pipeline.data.manifest import ShardSide
from pipeline.errors import ConfigError, CorpusError, ShardError, nearest

Corpus = tuple[Adapter, Path]
AUTO = "auto"
JSONL = "jsonl"


def find_corpora(root: Path, adapter_name: str = AUTO, only: Sequence[str] = ()) -> list[Corpus]:
    """The corpora at or below `root`, each with its adapter, in name order.

    Args:
        adapter_name: `auto` asks every adapter; `jsonl` takes every `metadata.jsonl`; else one adapter's name.
        only: keep these datasets.

    Raises:
        CorpusError: `root` is missing, or nothing was found in it.
        ConfigError: no such adapter, or a name in `only` that was not found.
    """
    if not root.is_dir():
        raise CorpusError("no such corpora folder", where={"folder": root}, hint="give an existing folder: --corpora")
    if adapter_name == AUTO:
        found = _find_known(root)
    elif adapter_name == JSONL:
        found = list(JsonlCorpus().discover(root))
    else:
        found = _find_one(root, adapter_name)
    if not found:
        raise CorpusError(
            "no corpus found",
            where={"folder": root},
            expected=_looked_for(adapter_name),
            hint="give the folder that holds the corpora's own folders, up to three levels above their files",
        )
    return _select(sorted(found, key=lambda corpus: corpus[0].name), only)


def prepare(
    corpora: Sequence[Corpus],
    out: Path,
    *,
    jobs: int = 2,
    options: PlanOptions | None = None,
    thresholds: Thresholds | None = None,
    executor: str = "local",
    on_plan: Callable[[Sequence[Plan]], None] | None = None,
    on_shard: Callable[[ShardTask, ShardSide, bool], None] | None = None,
) -> list[Outcome]:
    """Write shards and manifests of `corpora` below `out`; shards that are already the planned ones are kept.

    Losses beyond the thresholds do not stop the others: see `Outcome.error`. `on_plan` is called once, `on_shard` for
    every shard, with True for one that was kept.
    """
    options, thresholds = options or PlanOptions(), thresholds or Thresholds()
    plans = [make_plan(adapter, root, out, options) for adapter, root in corpora]
    if on_plan is not None:
        on_plan(plans)
    by_name = {plan.dataset: plan for plan in plans}
    sides: dict[str, ShardSide] = {}
    outcomes: dict[str, Outcome] = {}

    def take_in(task: ShardTask, side: ShardSide, *, kept: bool) -> None:
        """Note one shard; the last one of a dataset finishes it, so that a later crash costs that dataset nothing."""
        sides[task.name] = side
        if on_shard is not None:
            on_shard(task, side, kept)
        shards = by_name[task.dataset].shards
        if all(shard.name in sides for shard in shards):
            mine = [sides.pop(shard.name) for shard in shards]
            outcomes[task.dataset] = finish_dataset(by_name[task.dataset], mine, thresholds)

    try:
        pending = []
        for plan in plans:
            kept = open_dataset(plan)
            pending += [task for task in plan.shards if task.name not in kept]
            for task in plan.shards:
                if task.name in kept:
                    take_in(task, kept[task.name], kept=True)
        for task, side in run(pending, jobs, executor=executor):
            take_in(task, side, kept=False)
    except OSError as error:
        raise ShardError(
            f"the output folder cannot be written: {error.strerror}",
            where={"file": error.filename or out},
            hint="free disk space or choose another --out, then run again; whole shards are kept",
        ) from error
    return [outcomes[plan.dataset] for plan in plans]


def _registry() -> dict[str, Adapter]:
    # Imported on use: adapters may need readers (YAML, parquet ...) that the other verbs do not.
    from data_prep.adapters import ADAPTERS

    return {name: adapter for name, adapter in ADAPTERS.items() if name != JSONL}


def _find_known(root: Path) -> list[Corpus]:
    """What every adapter finds, and the generic datasets outside those corpora's folders."""
    located = [(adapter, adapter.find(root)) for adapter in _registry().values()]
    found = [(adapter, folder) for adapter, folder in located if folder is not None]
    generic = [
        (corpus, folder)
        for corpus, folder in JsonlCorpus().discover(root, strict=False)
        if not any(folder.is_relative_to(known) for _, known in found)
    ]
    return [*found, *generic]


def _find_one(root: Path, name: str) -> list[Corpus]:
    known = _registry()
    if name not in known:
        names = [AUTO, JSONL, *sorted(known)]
        guess = nearest(name, names)
        raise ConfigError(
            "no such adapter",
            where={"option": "adapter"},
            got=name,
            expected=" ".join(names),
            hint=f"did you mean {guess!r}?" if guess else None,
        )
    folder = known[name].find(root)
    return [] if folder is None else [(known[name], folder)]


def _looked_for(adapter_name: str) -> str:
    if adapter_name == JSONL:
        return f"**/{METADATA_NAME}"
    if adapter_name == AUTO:
        return f"one of {' '.join(sorted(_registry()))}, or **/{METADATA_NAME}"
    return f"the layout of {adapter_name}"


def _select(found: list[Corpus], only: Sequence[str]) -> list[Corpus]:
    names = [adapter.name for adapter, _ in found]
    for name in only:
        if name not in names:
            guess = nearest(name, names)
            raise ConfigError(
                "no such dataset among the corpora that were found",
                where={"option": "only"},
                got=name,
                expected=" ".join(names),
                hint=f"did you mean {guess!r}?" if guess else None,
            )
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise CorpusError("two corpora have the same dataset name", got=" ".join(doubled))
    return [corpus for corpus in found if not only or corpus[0].name in only]

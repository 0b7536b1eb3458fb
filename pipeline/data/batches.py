"""Examples to encoded micro-batches, and the fixed sets that evaluation runs over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.data.index import ShardIndex
from pipeline.data.order import permutation
from pipeline.errors import AudioError, ShardError, TrainingError
from pipeline.types import MIXED, Example, MicroBatch, Qa

Encode = Callable[[list[Example]], dict[str, Any]]
OnBad = Callable[[str, str, str], None]  # dataset, example id, reason


@dataclass(frozen=True)
class BadSample:
    """An example that could not be read, and why."""

    dataset: str
    example_id: str
    reason: str


def require_examples(index: ShardIndex, dataset: str, split: str) -> int:
    """Number of examples of `dataset` in `split`; ShardError when there are none."""
    n = index.n_examples(dataset, split)
    if n == 0:
        raise ShardError(
            "a dataset has no examples in this split",
            where={"dataset": dataset, "split": split},
            hint="leave the dataset out, or choose another split",
        )
    return n


def try_read(index: ShardIndex, dataset: str, split: str, number: int) -> Example | BadSample:
    """The example, or why it is bad. Only a damaged clip is that; a lost shard and our own bugs stop the run."""
    try:
        return index.read(dataset, split, number)
    except AudioError as error:
        reason = ": ".join(str(part) for part in (error.state, error.what, error.got) if part is not None)
        return BadSample(dataset, index.example_id(dataset, split, number), reason)


def make_micro_batch(examples: list[Example], encode: Encode, counted: bool = True) -> MicroBatch:
    """Encode [B] examples for one forward; of several datasets it becomes `MIXED`, with the name of each example's.

    Args:
        counted: False for a filler that keeps ranks in step.
    """
    datasets = tuple(example.dataset for example in examples)
    is_mixed = len(set(datasets)) > 1
    return MicroBatch(
        dataset=MIXED if is_mixed else datasets[0],
        example_ids=tuple(example.id for example in examples),
        inputs=encode(examples),
        audio_s=sum(len(each.audio) / each.sample_rate_hz for each in examples if each.audio is not None),
        counted=counted,
        datasets=datasets if is_mixed else None,
        questions=tuple(Qa(each.id, each.task, each.question, each.answer, each.answers) for each in examples),
    )


class EvalBatches:
    """A fixed probe set in micro-batches of one dataset each; may be iterated any number of times.

    All ranks have `len(self)` micro-batches, so that they run the same number of forward passes. Where a rank has
    nothing left it gets a filler of one example with `counted=False`, of `spare` if the plan has none that can be read.
    A bad sample is left out and told to `on_bad`: a replacement would change what is measured.
    """

    def __init__(
        self,
        index: ShardIndex,
        encode: Encode,
        split: str,
        plan: list[tuple[str, list[int]]],
        rank: int,
        world_size: int,
        cache: bool,
        on_bad: OnBad | None,
        spare: Sequence[tuple[str, list[int]]] = (),
    ) -> None:
        self.index = index
        self.encode = encode
        self.split = split
        self.on_bad = on_bad
        self._for_fillers = [*plan, *spare]
        self._mine = plan[rank::world_size]
        self._length = -(-len(plan) // world_size)
        self._cached: list[MicroBatch] | None = None
        self._cache = cache

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[MicroBatch]:
        if self._cached is not None:
            yield from self._cached
            return
        batches: list[MicroBatch] = []
        for number in range(self._length):
            batch = self._counted(*self._mine[number]) if number < len(self._mine) else None
            if batch is None:
                batch = self._filler()
            if self._cache:
                batches.append(batch)
            yield batch
        if self._cache:
            self._cached = batches

    def _counted(self, dataset: str, numbers: list[int]) -> MicroBatch | None:
        """The micro-batch of the examples that can be read, if any can."""
        examples = []
        for number in numbers:
            got = try_read(self.index, dataset, self.split, number)
            if isinstance(got, Example):
                examples.append(got)
            elif self.on_bad:
                self.on_bad(got.dataset, got.example_id, got.reason)
        return make_micro_batch(examples, self.encode) if examples else None

    def _filler(self) -> MicroBatch:
        for dataset, numbers in self._for_fillers:
            for number in numbers:
                got = try_read(self.index, dataset, self.split, number)
                if isinstance(got, Example):
                    return make_micro_batch([got], self.encode, counted=False)
        raise TrainingError(
            "not one example of the evaluation set can be read",
            where={"shards": self.index.shards, "split": self.split},
            hint="run `gst-data lint` on the shards",
        )


def eval_batches(
    index: ShardIndex,
    encode: Encode,
    split: str,
    per_dataset: int | None,
    micro_batch: int,
    rank: int,
    world_size: int,
    seed: int,
    *,
    datasets: Sequence[str] | None = None,
    cache: bool = False,
    on_bad: OnBad | None = None,
) -> EvalBatches:
    """This rank's share of a fixed probe set: per dataset the first `per_dataset` of one fixed permutation.

    Counted micro-batches of all ranks together hold every probe example exactly once; the last one of a dataset may be
    smaller. `per_dataset=None` takes the whole split. `cache=True` keeps the encoded batches after the first full pass.

    Raises:
        ShardError: a dataset named in `datasets` has no examples in `split`, or, with None, no dataset has any.
    """
    if datasets is None:
        names = [name for name in index.datasets if index.n_examples(name, split)]
    else:
        names = [name for name in datasets if require_examples(index, name, split)]
    plan: list[tuple[str, list[int]]] = []
    for name in names:
        plan += [(name, numbers) for numbers in _cut(index, split, name, per_dataset, micro_batch, seed)]
    if not plan:
        raise ShardError("nothing to evaluate", where={"shards": index.shards, "split": split})
    return EvalBatches(index, encode, split, plan, rank, world_size, cache, on_bad)


def chosen_batches(
    index: ShardIndex,
    encode: Encode,
    split: str,
    chosen: Mapping[str, Sequence[int]],
    micro_batch: int,
    rank: int,
    world_size: int,
    seed: int,
    *,
    on_bad: OnBad | None = None,
) -> EvalBatches:
    """This rank's share of some micro-batches, by their numbers in each dataset's fixed order.

    Number b of a dataset is the b-th of `eval_batches` with the same seed and `per_dataset=None`, so that longer runs
    of numbers extend a fixed probe set. Datasets without numbers only lend fillers.

    Raises:
        ShardError: a dataset has no examples in `split`, or no number is chosen.
        IndexError: a number past the end of a dataset, `n_micro_batches`.
    """
    plan, spare = [], []
    for name, numbers in chosen.items():
        require_examples(index, name, split)
        cut = _cut(index, split, name, None, micro_batch, seed)
        plan += [(name, cut[number]) for number in numbers]
        spare.append((name, cut[0]))
    if not plan:
        raise ShardError("nothing to evaluate", where={"shards": index.shards, "split": split})
    return EvalBatches(index, encode, split, plan, rank, world_size, False, on_bad, spare)


def n_micro_batches(index: ShardIndex, dataset: str, split: str, micro_batch: int) -> int:
    """How many micro-batches a dataset has; the last one may be smaller."""
    return -(-index.n_examples(dataset, split) // micro_batch)


def _cut(
    index: ShardIndex, split: str, dataset: str, first: int | None, micro_batch: int, seed: int
) -> list[list[int]]:
    """The first examples (None: all) of a dataset's fixed order, cut into micro-batches."""
    order = permutation(seed, f"probe/{split}/{dataset}", 0, index.n_examples(dataset, split))[:first].tolist()
    return [order[start : start + micro_batch] for start in range(0, len(order), micro_batch)]

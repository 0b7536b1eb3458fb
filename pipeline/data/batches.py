"""Examples to encoded micro-batches, and the fixed sets that evaluation runs over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.data.index import ShardIndex
from pipeline.data.order import permutation
from pipeline.errors import AudioError, ShardError, TrainingError
from pipeline.types import Example, MicroBatch

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


def make_micro_batch(dataset: str, examples: list[Example], encode: Encode, counted: bool = True) -> MicroBatch:
    return MicroBatch(
        dataset=dataset,
        example_ids=tuple(example.id for example in examples),
        inputs=encode(examples),
        audio_s=sum(len(example.audio) / example.sample_rate_hz for example in examples),
        counted=counted,
    )


class EvalBatches:
    """A fixed probe set in micro-batches of one dataset each; may be iterated any number of times.

    All ranks have `len(self)` micro-batches, so that they run the same number of forward passes. Where a rank has
    nothing left it gets a filler of one example with `counted=False`. A bad sample is left out and told to `on_bad`:
    a replacement would change what is measured.
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
    ) -> None:
        self.index = index
        self.encode = encode
        self.split = split
        self.on_bad = on_bad
        self._plan = plan
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
        return make_micro_batch(dataset, examples, self.encode) if examples else None

    def _filler(self) -> MicroBatch:
        for dataset, numbers in self._plan:
            for number in numbers:
                got = try_read(self.index, dataset, self.split, number)
                if isinstance(got, Example):
                    return make_micro_batch(dataset, [got], self.encode, counted=False)
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
        numbers = permutation(seed, f"probe/{split}/{name}", 0, index.n_examples(name, split))[:per_dataset].tolist()
        plan += [(name, numbers[start : start + micro_batch]) for start in range(0, len(numbers), micro_batch)]
    if not plan:
        raise ShardError("nothing to evaluate", where={"shards": index.shards, "split": split})
    return EvalBatches(index, encode, split, plan, rank, world_size, cache, on_bad)

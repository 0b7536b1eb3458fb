"""Micro-batches for training: each of one dataset (or, by cluster, of several), dealt to ranks by arithmetic.

A global step has `global_batch / micro_batch` slots. The mixture names the pool of each, mostly a dataset, and the
pool's own order says which examples; slot j belongs to rank j mod world size, as its accumulation step j div world
size. So the global sequence does not depend on world size, worker threads or prefetch, and every rank has the same
number of micro-batches.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline.data.batches import BadSample, Encode, OnBad, make_micro_batch, try_read
from pipeline.data.index import ShardIndex
from pipeline.data.pools import Pool, bucketed, dataset_pools
from pipeline.data.sources import Source
from pipeline.errors import CheckpointError, TrainingError, WorldSizeError
from pipeline.types import Example, MicroBatch

STATE_VERSION = 1
PREFETCH_STEPS = 2


def slots_per_step(global_batch: int, micro_batch: int, world_size: int) -> int:
    """Micro-batches in one global optimizer step.

    Raises:
        WorldSizeError: they do not come out whole, or cannot be dealt evenly to the ranks.
    """
    where: dict[str, object] = {"global_batch": global_batch, "micro_batch": micro_batch, "world size": world_size}
    if micro_batch < 1 or global_batch < 1 or global_batch % micro_batch:
        raise WorldSizeError(
            "the global batch is not made of whole micro-batches",
            where=where,
            expected="global_batch a multiple of micro_batch",
            hint=f"global_batch {max(1, round(global_batch / max(micro_batch, 1))) * micro_batch}",
        )
    slots = global_batch // micro_batch
    if world_size < 1 or slots % world_size:
        valid = [n for n in range(1, slots + 1) if slots % n == 0]
        raise WorldSizeError(
            f"{slots} micro-batches per step cannot be dealt evenly to {world_size} ranks",
            where=where,
            got=f"{world_size} ranks",
            expected=f"one of {', '.join(map(str, valid))} ranks",
            hint="start another number of processes, or change global_batch or micro_batch",
        )
    return slots


@dataclass
class _Step:
    """One planned global step: this rank's slots (pool, position), and the mixture's state on both sides of it."""

    before: dict[str, Any]
    after: dict[str, Any]
    slots: list[tuple[str, int]]
    reads: list[Future[tuple[MicroBatch, list[BadSample]]]] = field(default_factory=list)


class TrainLoader:
    """This rank's micro-batches, step after step, without end.

    `next_step` advances the state: a step counts as consumed once it has been handed out. Steps read ahead by worker
    threads are plans only; they are thrown away when the mixture is no longer in the state they were planned from,
    so new weights act on exactly the next step, and prefetch never shows in the state.

    A bad sample is replaced by one further on in the order of its pool. Positions do not move for it, so ranks stay
    aligned and the replacement is the same on any world size; that example then comes twice within a short time.

    Args:
        index: examples, with `split` indexed.
        mixture: draws the pools: a `Mixture` of datasets or of parts of them, a `Stream`, or a `Switch` between such.
            The loader advances it, its state is part of the loader's.
        encode: examples -> the model's keyword arguments. Runs in worker threads when `workers > 0`,
            so it must be thread-safe.
        global_batch, micro_batch: examples per optimizer step and per forward pass.
        comm_rank, world_size: this process among its peers.
        seed: of the order of examples.
        split: where the examples come from.
        workers: threads that read and encode `PREFETCH_STEPS` steps ahead; 0 reads when asked. Threads suffice:
            decoding and feature extraction leave the interpreter lock.
        max_consecutive_failures: so many bad samples in a row stop the run.
        on_bad: told dataset, example id and reason of every bad sample of the steps that are handed out.
        pools: what the names are that the mixture draws; None: whole datasets.
        bucket: examples of so many micro-batches of a pool are sorted by duration and dealt to these micro-batches
            anew, see `pipeline.data.order.bucketed_permutation`; None: they come in the order of the permutation.

    Raises:
        ConfigError: `bucket` with a pool of clusters.
        WorldSizeError: the batch cannot be dealt to the ranks.
        ShardError: the mixture names a dataset that the index lacks, or one without examples.
    """

    def __init__(
        self,
        index: ShardIndex,
        mixture: Source,
        encode: Encode,
        *,
        global_batch: int,
        micro_batch: int,
        comm_rank: int,
        world_size: int,
        seed: int,
        split: str = "train",
        workers: int = 0,
        max_consecutive_failures: int = 100,
        on_bad: OnBad | None = None,
        pools: Mapping[str, Pool] | None = None,
        bucket: int | None = None,
    ) -> None:
        self.slots = slots_per_step(global_batch, micro_batch, world_size)
        assert 0 <= comm_rank < world_size
        self.index = index
        self.mixture = mixture
        self.encode = encode
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.rank, self.world_size = comm_rank, world_size
        self.seed = seed
        self.split = split
        self.workers = workers
        self.max_consecutive_failures = max_consecutive_failures
        self.on_bad = on_bad
        self.bucket = bucket
        self.step = 0
        self._pools = dataset_pools(index, mixture.positions, split) if pools is None else dict(pools)
        if bucket is not None:
            self._pools = {
                name: bucketed(pool, index, split, micro_batch, bucket) for name, pool in self._pools.items()
            }
        assert set(self._pools) == set(mixture.positions), "every pool that may be drawn, and no other"
        self._datasets = sorted({name for pool in self._pools.values() for name in pool.datasets})
        self._bad: Counter[str] = Counter()
        self._planner = copy.deepcopy(mixture)
        self._planned: deque[_Step] = deque()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="gst-loader") if workers else None

    def next_step(self) -> list[MicroBatch]:
        """This rank's micro-batches of the next global optimizer step, in accumulation order.

        Raises:
            TrainingError: too many bad samples in a row.
            ShardError: a shard vanished or was cut. After an error the state is that of before the call.
        """
        if not self._planned or self._planned[0].before != self.mixture.state_dict():
            self._discard()
        try:
            self._plan_ahead()
            step = self._planned[0]
            if self._pool:
                results = [read.result() for read in step.reads]
            else:
                results = [self._read_slot(pool, start) for pool, start in step.slots]
        except BaseException:
            self._discard()
            raise
        self._planned.popleft()
        self.mixture.load_state_dict(step.after)
        self.step += 1
        self._plan_ahead()  # workers read the next steps while the caller trains on this one
        for _, bad_samples in results:
            for bad in bad_samples:
                self._bad[bad.dataset] += 1
                if self.on_bad:
                    self.on_bad(bad.dataset, bad.example_id, bad.reason)
        return [batch for batch, _ in results]

    @property
    def skipped(self) -> int:
        """Bad samples in the steps that this process has handed out."""
        return sum(self._bad.values())

    def set_weights(self, weights: dict[str, float]) -> None:
        """Draw by these weights from the next step on; call it on every rank with the same numbers.

        With a `Switch` the names decide which source draws from then on.
        """
        self.mixture.set_weights(weights)

    def counters(self) -> dict[str, dict[str, float]]:
        """Per dataset: `examples` and `epochs` consumed by all ranks, `bad` samples this process has met."""
        consumed: Counter[str] = Counter()
        for name, position in self.mixture.positions.items():
            consumed.update(self._pools[name].consumed(self.seed, position))
        return {
            name: {
                "examples": consumed[name],
                "epochs": consumed[name] / self.index.n_examples(name, self.split),
                "bad": self._bad[name],
            }
            for name in self._datasets
        }

    def pool_counters(self) -> dict[str, dict[str, float]]:
        """Per pool, for example per unit of a dataset: `examples` and `epochs` consumed by all ranks."""
        return {
            name: {"examples": position, "epochs": position / len(self._pools[name])}
            for name, position in self.mixture.positions.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON data, the same on every rank, for every world size and number of workers."""
        return {**self._identity(), "step": self.step, "mixture": self.mixture.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last step that the saved run handed out; any world size that divides the batch will do.

        Raises:
            CheckpointError: the state belongs to other data, batch sizes, seed or version; names the remedy.
        """
        mine = self._identity()
        for key, remedy in _REMEDIES.items():
            if state.get(key) != mine.get(key):
                raise CheckpointError(
                    f"the checkpoint's data order was made with another {key}",
                    got=state.get(key, "none"),
                    expected=mine.get(key, "none"),
                    hint=remedy,
                )
        saved: dict[str, str] = state["digests"]
        changed = _different(saved, mine["digests"])
        if changed:
            raise CheckpointError(
                "the prepared data is not that of the checkpoint",
                where={"datasets": ", ".join(changed), "shards": self.index.shards},
                got={name: mine["digests"].get(name, "(not in this run)") for name in changed},
                expected={name: saved.get(name, "(not in the checkpoint)") for name in changed},
                hint="point the run at the shards and datasets of the checkpoint, or start a new run",
            )
        changed = _different(state.get("pools", {}), mine.get("pools", {}))
        if changed:
            raise CheckpointError(
                "the checkpoint's data was drawn from other units or clusters",
                where={"pools": ", ".join(changed)},
                hint="resume with the task levels or the file of clusters of the checkpoint, or start a new run",
            )
        self.mixture.load_state_dict(state["mixture"])
        self.step = state["step"]

    def close(self) -> None:
        """Stop the worker threads; nothing may be asked of the loader afterwards."""
        self._discard()
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a saved order to go on."""
        digests = {name: pool.digest for name, pool in self._pools.items()}
        partial = {name: digest for name, digest in digests.items() if digest is not None}
        return {
            "version": STATE_VERSION,
            "seed": self.seed,
            "split": self.split,
            "global_batch": self.global_batch,
            "micro_batch": self.micro_batch,
            "digests": {name: self.index.digests[name] for name in self._datasets},
            **({"pools": partial} if partial else {}),
            **({"bucket": self.bucket} if self.bucket else {}),
        }

    def _discard(self) -> None:
        """Forget what was planned; plan again from the mixture's present state."""
        for step in self._planned:
            for read in step.reads:
                read.cancel()
        self._planned.clear()
        self._planner = copy.deepcopy(self.mixture)

    def _plan_ahead(self) -> None:
        """Plan the next step and, with workers, start reading it and those after it."""
        ahead = PREFETCH_STEPS if self._pool else 1
        while len(self._planned) < ahead:
            before = self._planner.state_dict()
            drawn = [(name, self._planner.take(name, self.micro_batch)) for name in self._planner.draw_step(self.slots)]
            step = _Step(before, self._planner.state_dict(), drawn[self.rank :: self.world_size])
            if self._pool:
                step.reads = [self._pool.submit(self._read_slot, pool, start) for pool, start in step.slots]
            self._planned.append(step)

    def _read_slot(self, pool: str, start: int) -> tuple[MicroBatch, list[BadSample]]:
        """Read and encode the micro-batch at `start`; stand-ins for bad samples come from right behind it."""
        examples: list[Example] = []
        bad: list[BadSample] = []
        stand_ins = itertools.count(start + self.micro_batch)
        in_a_row = 0
        for place in range(self.micro_batch):
            got = self._read_at(pool, start + place)
            while isinstance(got, BadSample):
                bad.append(got)
                in_a_row += 1
                if in_a_row >= self.max_consecutive_failures:
                    raise TrainingError(
                        f"{in_a_row} bad samples in a row",
                        where={"dataset": got.dataset, "last example": got.example_id, "reason": got.reason},
                        hint="run `gst-data lint` on the shards, or leave this dataset out",
                    )
                got = self._read_at(pool, next(stand_ins))
            examples.append(got)
            in_a_row = 0
        return make_micro_batch(examples, self.encode), bad

    def _read_at(self, pool: str, position: int) -> Example | BadSample:
        dataset, number = self._pools[pool].at(self.seed, position)
        return try_read(self.index, dataset, self.split, number)


def _different(saved: Mapping[str, str], mine: Mapping[str, str]) -> list[str]:
    """Names whose values are not the same, or that only one side has."""
    return sorted(name for name in {*saved, *mine} if saved.get(name) != mine.get(name))


_REMEDIES = {
    "version": "resume with the release that wrote the checkpoint, or start a new run",
    "seed": "set the seed of the checkpoint, or start a new run",
    "split": "set the split of the checkpoint, or start a new run",
    "global_batch": "set the global_batch of the checkpoint (the number of ranks may change, the batch may not)",
    "micro_batch": "set the micro_batch of the checkpoint (the number of ranks may change, the batch may not)",
    "bucket": "set the data.bucket of the checkpoint, or start a new run",
}

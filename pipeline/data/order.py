"""The order of examples as a pure function: nothing is drawn, so nothing has to be saved or replayed.

Everything is read off Philox, a counter-based generator, through its raw 64-bit output. numpy promises not to change
that raw stream (NEP 19), while it may change `Generator.permutation` and its like; so the order survives upgrades.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def _philox(seed: int, stream: str, counter: int) -> np.random.Philox:
    """Philox keyed by (seed, stream) at `counter`; draws under one counter never reach into the next one's."""
    key = np.frombuffer(hashlib.sha256(json.dumps([seed, stream]).encode()).digest()[:16], dtype="<u8")
    # Philox counts up in the first of its four words as numbers are read; ours sits in the second.
    return np.random.Philox(key=key, counter=np.array([0, counter, 0, 0], dtype=np.uint64))


def uniforms(seed: int, stream: str, counter: int, n: int) -> NDArray[np.float64]:
    """`n` numbers in [0, 1) that belong to (seed, stream, counter)."""
    raw = _philox(seed, stream, counter).random_raw(n)
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


# One entry per dataset (or cluster, of which there may be 500) and epoch; all of them together never hold more numbers
# than examples were drawn.
@lru_cache(maxsize=2048)
def permutation(seed: int, stream: str, epoch: int, n: int) -> NDArray[np.uint32]:
    """A uniform permutation of range(n), read-only, for (seed, stream, epoch).

    The ranks of `n` random 64-bit integers; a stable sort, so that even equal integers have one defined order.
    """
    order = np.argsort(_philox(seed, stream, epoch).random_raw(n), kind="stable").astype(np.uint32)
    order.flags.writeable = False
    return order


def bucketed_permutation(
    seed: int, stream: str, epoch: int, durations_s: NDArray[np.float32], micro_batch: int, window: int
) -> NDArray[np.uint32]:
    """The epoch's `permutation` of len(durations_s), moved about so that micro-batches are of like duration.

    Epochs follow each other without a gap, so the epoch's first and last few examples may share a micro-batch with
    another epoch's; they stay where they are. Its whole micro-batches are taken `window` at a time: the examples of a
    window are sorted by duration (equal ones keep their order) and cut into micro-batches anew, and these come in an
    order drawn for (seed, stream, epoch). So every epoch still has each example once.
    """
    n = len(durations_s)
    order = permutation(seed, stream, epoch, n)
    head = min(-epoch * n % micro_batch, n)
    count = (n - head) // micro_batch
    whole = order[head : head + count * micro_batch]
    window_of = np.arange(count) // window
    by_duration = np.lexsort((durations_s[whole], np.repeat(window_of, micro_batch)))
    batches = whole[by_duration].reshape(count, micro_batch)
    visited = np.lexsort((uniforms(seed, f"bucket/{stream}", epoch, count), window_of))
    moved = np.concatenate([order[:head], batches[visited].reshape(-1), order[head + len(whole) :]])
    moved.flags.writeable = False
    return moved


def example_at(seed: int, dataset: str, n: int, position: int) -> int:
    """Which of the `n` examples of `dataset` stands at `position` of its endless stream of epochs."""
    epoch, offset = divmod(position, n)
    return int(permutation(seed, dataset, epoch, n)[offset])

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


def example_at(seed: int, dataset: str, n: int, position: int) -> int:
    """Which of the `n` examples of `dataset` stands at `position` of its endless stream of epochs."""
    epoch, offset = divmod(position, n)
    return int(permutation(seed, dataset, epoch, n)[offset])

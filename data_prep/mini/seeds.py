"""Named random streams: every clip draws from its own, so files do not depend on order or process count."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

import numpy as np

_T = TypeVar("_T")


def stream(seed: int, *names: object) -> np.random.Generator:
    """The generator that belongs to `names` under `seed`; the same names always give the same draws."""
    text = "/".join(str(name) for name in (seed, *names))
    key = int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def pick(rng: np.random.Generator, values: Sequence[_T]) -> _T:
    """One of `values`, each as likely; keeps the Python type, which `rng.choice` does not."""
    return values[int(rng.integers(len(values)))]


def sample(rng: np.random.Generator, values: Sequence[_T], n: int) -> list[_T]:
    """`n` different values (all of them when there are fewer) in random order."""
    return [values[int(index)] for index in rng.permutation(len(values))[:n]]


def weighted(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """One key of `weights`, by weight."""
    names = list(weights)
    edges = np.cumsum([weights[name] for name in names])
    return names[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]

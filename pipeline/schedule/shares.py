"""Shares of the mixture under bounds: a cap on change, and changes among some datasets only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Shares = dict[str, float]


def step_towards(old: Mapping[str, float], target: Mapping[str, float], max_change: float) -> Shares:
    """From `old` straight towards `target`, so that at most `max_change` of the mixture changes hands."""
    change = sum(abs(target[name] - share) for name, share in old.items()) / 2
    step = 1.0 if change <= max_change else max_change / change
    return {name: share + step * (target[name] - share) for name, share in old.items()}


def retarget(shares: Mapping[str, float], seen: Collection[str], rule: Callable[[Array], Array]) -> Shares:
    """`rule` redistributes among `seen` (in that order) what they hold together; the others keep their share.

    Args:
        rule: relative shares [n] summing to 1 -> new ones, not negative, with a positive sum.
    """
    held = sum(shares[name] for name in seen)
    if held <= 0:
        return dict(shares)
    new = rule(np.array([shares[name] / held for name in seen]))
    changed = dict(zip(seen, (new / new.sum() * held).tolist(), strict=True))
    return {name: changed.get(name, share) for name, share in shares.items()}

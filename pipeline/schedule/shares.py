"""Shares of the mixture under bounds: floors, a cap on change, and changes among some datasets only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Shares = dict[str, float]


def with_floor(shares: Mapping[str, float], floor: float) -> Shares:
    """The same total with no share below `floor`: what lies below is raised, the rest gives in proportion.

    Where the floors take all there is, everybody gets the same. Applying it twice changes nothing more.
    """
    total = sum(shares.values())
    if floor * len(shares) >= total:
        return dict.fromkeys(shares, total / len(shares))
    raised: set[str] = set()
    while True:
        free = sum(share for name, share in shares.items() if name not in raised)
        scale = (total - floor * len(raised)) / free
        below = {name for name, share in shares.items() if name not in raised and share * scale < floor}
        if not below:
            return {name: floor if name in raised else share * scale for name, share in shares.items()}
        raised |= below


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

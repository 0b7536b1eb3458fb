"""Which datasets have nothing left to gain for now, and which of them begin to be forgotten."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from pipeline.config.schedule import SaturationConfig
from pipeline.schedule.plateau import detect_plateau
from pipeline.schedule.shares import Shares
from pipeline.schedule.state import CurvesByDataset

TINY = 1e-12
GUARD_WINDOW = 2  # evaluations that must all have risen: one alone may be noise


class Saturation:
    """A dataset is saturated when a detector *with an interval* calls its own losses flat, since it entered.

    Patience would not do: a dataset that looks flat for a while may still be improving slowly. The forgetting guard
    compares the latest losses with the level at which it was called flat; a dataset that it returns needs new evidence.
    """

    def __init__(self, config: SaturationConfig) -> None:
        self._config = config
        self._level: dict[str, float] = {}  # saturated dataset -> mean loss when it was called flat
        self._since: dict[str, int] = {}  # dataset -> evaluation from which on its losses are evidence

    @property
    def names(self) -> list[str]:
        """Saturated now, by name."""
        return sorted(self._level)

    def enter(self, names: Collection[str], evaluation: int) -> None:
        """These joined the pool at this evaluation."""
        self._since |= dict.fromkeys(names, evaluation)

    def update(self, losses: CurvesByDataset) -> dict[str, Any]:
        """Judge every dataset that entered, by all its losses of the run; returns what changed, with numbers."""
        changed: dict[str, Any] = {}
        for name, since in sorted(self._since.items()):
            own = losses[name][since:]
            if name in self._level:
                rise = self._rise(name, own)
                if rise is not None and rise > self._config.forgetting:
                    changed[name] = {"saturated": False, "rise": rise, "level": self._level.pop(name)}
                    self._since[name] = len(losses[name]) - 1
                continue
            verdict = detect_plateau({name: own}, self._config.evidence)
            if verdict.flat:
                window = verdict.numbers["window"]
                self._level[name] = float(np.mean([value for value in own[-window:] if value is not None]))
                changed[name] = {"saturated": True, "level": self._level[name], **verdict.numbers}
        return changed

    def _rise(self, name: str, own: list[float | None]) -> float | None:
        """By how much, relatively, the lowest of the latest losses lies above the level; None when one is missing."""
        recent = [value for value in own[-GUARD_WINDOW:] if value is not None]
        level = self._level[name]
        return (min(recent) - level) / max(level, TINY) if len(recent) == GUARD_WINDOW else None

    def state_dict(self) -> dict[str, Any]:
        return {"level": dict(self._level), "since": dict(self._since)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._level, self._since = dict(state["level"]), dict(state["since"])


def lowered(shares: Shares, names: Collection[str], floor: float) -> Shares:
    """`names` fall to `floor`, the others share what they leave in proportion.

    When all are named, nothing changes: then no dataset holds the others up.
    """
    held = {name: min(share, floor) for name, share in shares.items() if name in names}
    free = sum(share for name, share in shares.items() if name not in names)
    if not held or free <= 0:
        return shares
    scale = (sum(shares.values()) - sum(held.values())) / free
    return {name: held.get(name, share * scale) for name, share in shares.items()}

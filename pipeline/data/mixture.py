"""Which dataset each micro-batch comes from: counter-based draws by weights that may change at any step.

The state is a few numbers per dataset and does not know ranks, workers or prefetch. No torch here: the schedule and
the report import this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from pipeline.data.order import uniforms
from pipeline.errors import CheckpointError, ConfigError, nearest

Draw = Literal["deficit", "categorical"]

STATE_VERSION = 1

# Credits of datasets with equal claims differ by multiples of small fractions. Jitter of half a draw shuffles their
# turns, so that no dataset stays with one rank (two equal datasets on two ranks would without it), and is too small
# to let served counts run away from the weights.
_JITTER = 0.5


def uniform_weights(datasets: Iterable[str]) -> dict[str, float]:
    """The same weight for every dataset."""
    return normalised(dict.fromkeys(datasets, 1.0))


def proportional_weights(sizes: Mapping[str, int]) -> dict[str, float]:
    """Weights proportional to the number of examples: as if all datasets were one."""
    return temperature_weights(sizes, 1.0)


def temperature_weights(sizes: Mapping[str, int], t: float) -> dict[str, float]:
    """p_i ~ n_i^(1/T): T = 1 is proportional, growing T tends to uniform.

    Raises:
        ConfigError: `t` is not a positive finite number, or no dataset has examples.
    """
    if not (math.isfinite(t) and t > 0):
        raise ConfigError("the mixing temperature must be a positive number", got=t, expected="> 0, for example 2")
    largest = max(sizes.values(), default=0) or 1
    return normalised({name: (n / largest) ** (1.0 / t) for name, n in sizes.items()})


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights divided by their sum.

    Raises:
        ConfigError: a weight is negative or not finite, or none is positive.
    """
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(
                "a mixture weight cannot be used", where={"dataset": name}, got=weight, expected="a finite number >= 0"
            )
    total = math.fsum(weights.values())
    if not (math.isfinite(total) and total > 0):
        raise ConfigError(
            "no dataset has a positive mixture weight",
            where={"datasets": ", ".join(weights) or "(none)"},
            expected="at least one weight > 0",
        )
    return {name: weight / total for name, weight in weights.items()}


def with_floor(shares: Mapping[str, float], floor: float) -> dict[str, float]:
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


class Mixture:
    """Draws a dataset for every micro-batch slot of every global step, and counts the examples each has given.

    Args:
        datasets: names, or names of parts of datasets; their order does not matter.
        seed: of the draws.
        weights: relative weight per dataset; one that is not named has weight zero and is never drawn.
        draw: `deficit` keeps served counts within about one draw of weight x slots, in a shuffled order;
            `categorical` draws independently.
        min_share: the least that each of the D names with a weight is drawn, as a share of 1/D. With weights w summing
            to 1 and f = min_share / D, names below f are drawn with f, the others with c w, where c is such that all
            sum to 1 (and names that c w would push below f get f as well). It holds for all weights ever set; 0
            leaves them as they are, 1 makes them uniform.

    Raises:
        ConfigError: an unusable weight, an unknown name, an unknown `draw`, or a `min_share` outside 0 to 1.
    """

    def __init__(
        self,
        datasets: Sequence[str],
        seed: int,
        weights: Mapping[str, float],
        draw: Draw = "deficit",
        min_share: float = 0.0,
    ) -> None:
        if not 0 <= min_share <= 1:
            raise ConfigError(
                "unusable minimum share of a dataset", got=min_share, expected="0 to 1, of an equal share"
            )
        if draw not in get_args(Draw):
            raise ConfigError("unknown way to draw datasets", got=draw, expected=" or ".join(get_args(Draw)))
        self.datasets = tuple(sorted(set(datasets)))
        self.seed = seed
        self.draw = draw
        self.min_share = min_share
        self.slot = 0
        self._positions = dict.fromkeys(self.datasets, 0)
        self._credits = np.zeros(len(self.datasets))
        self._weights = np.zeros(len(self.datasets))
        self.set_weights(weights)

    @property
    def names(self) -> tuple[str, ...]:
        """What weights may name, as of every `pipeline.data.sources.Source`."""
        return self.datasets

    @property
    def weights(self) -> dict[str, float]:
        """Current weight of every dataset, with `min_share`; they sum to one."""
        return dict(zip(self.datasets, self._weights.tolist(), strict=True))

    @property
    def positions(self) -> dict[str, int]:
        """Examples taken so far from every dataset."""
        return dict(self._positions)

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Use these weights from the next draw on.

        Credits live on while the same datasets are drawn; a changed pool starts with a clean slate, since a debt
        towards a dataset that left says nothing about those that stay.
        """
        for name in weights:
            if name not in self._positions:
                close = nearest(name, self.datasets)
                raise ConfigError(
                    "a weight is given for a dataset that is not in the mixture",
                    where={"dataset": name},
                    expected=", ".join(self.datasets),
                    hint=f"did you mean {close}?" if close else None,
                )
        new = normalised({name: float(weights.get(name, 0.0)) for name in self.datasets})
        if self.min_share:
            drawn = {name: weight for name, weight in new.items() if weight > 0}
            new |= with_floor(drawn, self.min_share / len(drawn))
        values = np.array([new[name] for name in self.datasets])
        if not np.array_equal(values > 0, self._weights > 0):
            self._credits[:] = 0.0
        self._weights = values

    def draw_step(self, n_slots: int) -> list[str]:
        """The datasets of the next `n_slots` micro-batch slots, in slot order."""
        choose = self._deficit if self.draw == "deficit" else self._categorical
        drawn = []
        for _ in range(n_slots):
            drawn.append(self.datasets[choose()])
            self.slot += 1
        return drawn

    def take(self, dataset: str, n: int) -> int:
        """Take the next `n` examples of `dataset`; returns the position of the first."""
        start = self._positions[dataset]
        self._positions[dataset] = start + n
        return start

    def _deficit(self) -> int:
        self._credits += self._weights
        claims = self._credits + _JITTER * uniforms(self.seed, "mixture", self.slot, len(self.datasets))
        chosen = int(np.argmax(np.where(self._weights > 0, claims, -np.inf)))
        self._credits[chosen] -= 1.0
        return chosen

    def _categorical(self) -> int:
        drawable = np.flatnonzero(self._weights)
        edges = np.cumsum(self._weights[drawable])
        point = uniforms(self.seed, "mixture", self.slot, 1)[0] * edges[-1]
        return int(drawable[min(np.searchsorted(edges, point, side="right"), len(drawable) - 1)])

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON data; the same on every rank and for every world size."""
        return {
            **self._identity(),
            "slot": self.slot,
            "weights": self.weights,
            "credits": dict(zip(self.datasets, self._credits.tolist(), strict=True)),
            "positions": self.positions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken.

        Raises:
            CheckpointError: the state is of another version, seed, way to draw, minimum share, or set of datasets.
        """
        mine = self._identity()
        for key in ("version", "seed", "draw", "min_share"):
            if state.get(key) != mine.get(key):
                raise CheckpointError(
                    f"the saved mixture has another {key}",
                    got=state.get(key, "none"),
                    expected=mine.get(key, "none"),
                    hint=f"resume with the same {key}, or start a new run",
                )
        if set(state["positions"]) != set(self.datasets):
            raise CheckpointError(
                "the saved mixture has other datasets",
                got=", ".join(sorted(state["positions"])),
                expected=", ".join(self.datasets),
                hint="resume with the datasets of the checkpoint (a weight of zero pauses one), or start a new run",
            )
        self.slot = state["slot"]
        self._weights = np.array([state["weights"][name] for name in self.datasets])
        self._credits = np.array([state["credits"][name] for name in self.datasets])
        self._positions = {name: state["positions"][name] for name in self.datasets}

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a saved mixture to go on; `min_share` is named where there is one."""
        least = {"min_share": self.min_share} if self.min_share else {}
        return {"version": STATE_VERSION, "seed": self.seed, "draw": self.draw, **least}

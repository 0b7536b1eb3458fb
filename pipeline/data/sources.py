"""What the loader draws from, step after step: a mixture by weights, one stream, or one of several by turns.

A source names pools (`pipeline.data.pools`) and counts what it took of each. Its state is a few numbers, equal on every
rank; what is in the pools is not its business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from pipeline.errors import CheckpointError, ConfigError
from pipeline.types import Stateful

STATE_VERSION = 1


class Source(Stateful, Protocol):
    """Draws the pool of every micro-batch slot; `pipeline.data.mixture.Mixture` is the usual one.

    It must be cheap to copy: the loader plans ahead on copies.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """What weights may name."""
        ...

    @property
    def positions(self) -> dict[str, int]:
        """Pool -> examples taken from it so far; every pool it may ever draw is there."""
        ...

    def draw_step(self, n_slots: int) -> list[str]:
        """The pools of the next `n_slots` micro-batch slots, in slot order."""
        ...

    def take(self, pool: str, n: int) -> int:
        """Take the next `n` examples of `pool`; returns the position of the first."""
        ...

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Use these weights from the next draw on."""
        ...


class Stream:
    """One pool that holds everything, taken in its own order.

    Args:
        pool: its name.
        names: what is in it. Weights must name all of that, and change nothing.
    """

    def __init__(self, pool: str, names: Iterable[str]) -> None:
        self._pool = pool
        self._position = 0
        self._names = tuple(sorted(names))

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    @property
    def positions(self) -> dict[str, int]:
        return {self._pool: self._position}

    def draw_step(self, n_slots: int) -> list[str]:
        return [self._pool] * n_slots

    def take(self, pool: str, n: int) -> int:
        assert pool == self._pool
        start = self._position
        self._position = start + n
        return start

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Check that everything is drawn; raises ConfigError otherwise."""
        drawn = _drawn(weights)
        if drawn != self._names:
            raise ConfigError(
                "a stream over all datasets cannot leave some out",
                where={"stream": self._pool},
                got=", ".join(drawn),
                expected=", ".join(self._names),
            )

    def state_dict(self) -> dict[str, Any]:
        return {"version": STATE_VERSION, "source": "stream", "pool": self._pool, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; CheckpointError when it is of another source or version."""
        _require_same(state, self.state_dict(), ("version", "source", "pool"))
        self._position = int(state["position"])


class Switch:
    """Several sources, one of which draws: the one whose names the weights give. The others stand still meanwhile.

    Args:
        sources: by a name of their own; no two may have a name in common that weights could give.
        weights: see `set_weights`.
    """

    def __init__(self, sources: Mapping[str, Source], weights: Mapping[str, float]) -> None:
        self._sources = dict(sources)
        self._owner = {name: key for key, source in self._sources.items() for name in source.names}
        assert len(self._owner) == sum(len(source.names) for source in self._sources.values()), "names overlap"
        self._active = next(iter(self._sources))
        self.set_weights(weights)

    @property
    def active(self) -> str:
        """Which one draws."""
        return self._active

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._owner))

    @property
    def positions(self) -> dict[str, int]:
        return {pool: taken for source in self._sources.values() for pool, taken in source.positions.items()}

    def draw_step(self, n_slots: int) -> list[str]:
        return self._sources[self._active].draw_step(n_slots)

    def take(self, pool: str, n: int) -> int:
        return self._sources[self._active].take(pool, n)

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Let the source draw whose names have weights; a weight of zero may be given for names of the others.

        Raises:
            ConfigError: an unknown name, or names of more than one source.
        """
        owners = {self._owner.get(name) for name in _drawn(weights)}
        if len(owners) != 1 or None in owners:
            raise ConfigError(
                "the weights do not say which source draws",
                got=", ".join(_drawn(weights)) or "no positive weight",
                expected=" or ".join(f"some of {', '.join(source.names)}" for source in self._sources.values()),
            )
        (active,) = owners
        assert active is not None
        self._sources[active].set_weights({n: w for n, w in weights.items() if self._owner.get(n) == active})
        self._active = active

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "source": "switch",
            "active": self._active,
            "sources": {key: source.state_dict() for key, source in self._sources.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; CheckpointError when it is of another source or version."""
        _require_same(state, self.state_dict(), ("version", "source"))
        _require_same({"sources": sorted(state["sources"])}, {"sources": sorted(self._sources)}, ("sources",))
        for key, source in self._sources.items():
            source.load_state_dict(state["sources"][key])
        self._active = state["active"]


def _drawn(weights: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(sorted(name for name, weight in weights.items() if weight > 0))


def _require_same(state: Mapping[str, Any], mine: Mapping[str, Any], keys: Iterable[str]) -> None:
    for key in keys:
        if state.get(key) != mine[key]:
            raise CheckpointError(
                f"the saved data source has another {key}",
                got=state.get(key),
                expected=mine[key],
                hint="resume with the schedule of the checkpoint, or start a new run",
            )

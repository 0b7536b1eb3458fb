"""What the trainer asks of the parts that it is handed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from pipeline.types import MicroBatch, Stateful


class Loader(Stateful, Protocol):
    """This rank's micro-batches of the next global step; weights take effect at the next step."""

    def next_step(self) -> list[MicroBatch]: ...

    def set_weights(self, weights: dict[str, float]) -> None: ...

    @property
    def skipped(self) -> int:
        """Examples that this process could not read."""
        ...


class GradientRecorder(Protocol):
    """Watches backward passes (the sketch); must not change them and must not communicate inside `micro_batch`."""

    def micro_batch(self, batch: MicroBatch, tokens: int, scale: float) -> AbstractContextManager[None]: ...

    def reduced(self) -> None:
        """All gradients of the step are reduced and not yet applied; every rank calls it."""
        ...

    def end_of_step(self, step: int) -> dict[str, Any] | None:
        """Numbers for the log when a window closes at `step`; every rank calls it."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def redealt(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """This rank's state out of those of another number of ranks."""
        ...

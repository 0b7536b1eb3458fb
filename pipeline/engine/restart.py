"""Stages that begin anew: base weights and a fresh optimizer, and what the model that goes was worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.dist import Comm
from pipeline.engine.checkpoint import CheckpointStore
from pipeline.engine.strategies import Strategies
from pipeline.errors import ConfigError
from pipeline.types import DatasetScore


class FreshStarts:
    """Keeps the run's first state, brings it back, and keeps the test scores of every model that is given up.

    Args:
        score: test scores of some datasets, by the weights in the engine; a collective.
    """

    def __init__(
        self,
        run_dir: Path,
        comm: Comm,
        identity: dict[str, Any],
        score: Callable[[list[str]], dict[str, DatasetScore]],
    ) -> None:
        self._base = CheckpointStore(run_dir / "base", comm, identity, keep=1)
        self._score = score
        self.scores: dict[str, DatasetScore] = {}

    def remember(self, engine: Any, strategies: Strategies) -> None:
        """Take the state that `begin` brings back; before the first step."""
        self._base.save(engine, 0, {}, {"strategies": strategies.state_dict()})

    def begin(self, engine: Any, strategies: Strategies, leaving: list[str]) -> None:
        """Score the model on the test split of the datasets it was trained on, then start again from the base.

        Raises:
            ConfigError: the state to go back to is gone.
        """
        with strategies.judged_weights():
            self.scores |= {name: score for name, score in self._score(leaving).items() if name in leaving}
        folder = self._base.latest()
        if folder is None:
            raise ConfigError(
                "the state that this run began from is gone",
                where={"folder": self._base.folder},
                hint="start the run again with --resume never",
            )
        saved = self._base.load(engine, folder)
        strategies.load_state_dict(saved.mine("strategies", strategies.redealt))

    def state_dict(self) -> dict[str, Any]:
        return {name: asdict(score) for name, score in self.scores.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scores = {name: DatasetScore(**score) for name, score in state.items()}

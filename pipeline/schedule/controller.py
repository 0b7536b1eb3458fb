"""The stage controller: watches validation loss and brings the next group in when the pool is flat."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.config.schema import Recipe
from pipeline.errors import CheckpointError
from pipeline.schedule.lr import lr_factor
from pipeline.schedule.plan import StagePlan
from pipeline.schedule.plateau import Verdict, detect_plateau
from pipeline.types import Decision, EvalPoint


class StageController:
    """Walks a `StagePlan`. A pool only grows: an earlier group is never dropped.

    A stage ends when its pool's mean validation loss is flat and `min_tokens` are seen, or at `max_tokens` or
    `max_share`, whichever comes first. The last stage never ends. All state is plain JSON and a function of the
    evaluations seen, so a resumed run takes the same decisions as an uninterrupted one.
    """

    def __init__(self, plan: StagePlan, recipe: Recipe) -> None:
        self.plan = plan
        self._train = recipe.train
        self._stage_limits = recipe.schedule.stage
        self._plateau = recipe.schedule.plateau
        self._stage = 0
        self._entered_step = 0
        self._entered_tokens = 0
        self._losses: list[float] = []
        self._switches: list[int] = []
        self._everything = sorted({name for stage in plan.stages for name in stage.pool})

    @property
    def stage(self) -> int:
        return self._stage

    @property
    def weights(self) -> dict[str, float]:
        current = self.plan.stages[self._stage].weights
        return {name: current.get(name, 0.0) for name in self._everything}

    def lr_factor(self, step: int) -> float:
        return lr_factor(self._train.lr_schedule, step, self._train.max_steps, self._switches)

    def observe(self, point: EvalPoint) -> Decision:
        """Take one evaluation into account; every dataset of the pool must be scored in it."""
        pool = self.plan.stages[self._stage].pool
        self._losses.append(float(np.mean([point.scores[name].loss for name in pool])))
        advance, reason = self._should_advance(point)
        if advance:
            self._stage += 1
            self._entered_step, self._entered_tokens = point.step, point.tokens
            self._losses = []
            self._switches.append(point.step)
        return Decision(self._stage, self.plan.stages[self._stage].pool, self.weights, advance, reason)

    def _should_advance(self, point: EvalPoint) -> tuple[bool, dict[str, Any]]:
        verdict: Verdict = detect_plateau(self._losses, self._plateau)
        tokens = point.tokens - self._entered_tokens
        steps = point.step - self._entered_step
        reason = {"pool_loss": self._losses[-1], "stage_tokens": tokens, "stage_steps": steps, **verdict.numbers}
        if self._stage == len(self.plan.stages) - 1:
            return False, {**reason, "rule": "last stage"}
        limits = self._stage_limits
        if limits.max_tokens is not None and tokens >= limits.max_tokens:
            return True, {**reason, "rule": "max_tokens"}
        if limits.max_share is not None and steps >= limits.max_share * self._train.max_steps:
            return True, {**reason, "rule": "max_share"}
        if verdict.flat and tokens >= limits.min_tokens:
            return True, {**reason, "rule": "plateau"}
        return False, {**reason, "rule": "goes on"}

    def state_dict(self) -> dict[str, Any]:
        """Stage, its entry (step, tokens), losses since then and switches, with the plan they belong to; plain JSON."""
        return {
            "version": 1,
            "affinity_version": self.plan.affinity_version,
            "pools": [list(stage.pool) for stage in self.plan.stages],
            "stage": self._stage,
            "entered_step": self._entered_step,
            "entered_tokens": self._entered_tokens,
            "losses": list(self._losses),
            "switches": list(self._switches),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            CheckpointError: it belongs to a plan with other groups; a resume never regroups silently.
        """
        mine = self.state_dict()
        for key in ("version", "affinity_version", "pools"):
            if state.get(key) != mine[key]:
                raise CheckpointError(
                    "the checkpoint was made with another stage plan",
                    where={"key": f"controller.{key}"},
                    got=state.get(key),
                    expected=mine[key],
                    hint="pin schedule.version to the checkpoint's affinity version, or start a new run",
                )
        self._stage = state["stage"]
        self._entered_step = state["entered_step"]
        self._entered_tokens = state["entered_tokens"]
        self._losses = list(state["losses"])
        self._switches = list(state["switches"])

"""The stage controller: watches validation loss and brings in what comes next when the pool is flat."""

from __future__ import annotations

from typing import Any

from pipeline.config.schema import Recipe
from pipeline.schedule.limits import at_stage, deadline
from pipeline.schedule.lr import lr_factor
from pipeline.schedule.plateau import Verdict, detect_plateau
from pipeline.schedule.stages import StagePlan
from pipeline.schedule.state import mean_loss, record_losses, require_same_plan
from pipeline.types import Decision, EvalPoint


class StageController:
    """Walks a `StagePlan`: mix_all, individual, sequential, gst, gst_strict_cycle, tpc, ads, tpc_ads.

    A stage ends when its pool's validation loss is flat and `min_tokens` are seen, or at a limit, whichever comes
    first. The last one never ends, or the first follows it when the plan is a cycle. All state is plain JSON and a
    function of the evaluations seen, so a resumed run takes the same decisions as an uninterrupted one.
    """

    def __init__(self, plan: StagePlan, recipe: Recipe) -> None:
        self.plan = plan
        self._train = recipe.train
        self._limits = recipe.schedule.stage
        self._plateau = recipe.schedule.plateau
        self._stage = 0
        self._visits = 0  # stages ended so far; more than `stage` in a cycle
        self._entered_step = 0
        self._entered_tokens = 0
        self._losses: dict[str, list[float | None]] = {}
        self._switches: list[int] = []

    @property
    def stage(self) -> int:
        return self._stage

    @property
    def weights(self) -> dict[str, float]:
        current = self.plan.stages[self._stage].weights
        return {name: current.get(name, 0.0) for name in self.plan.names}

    @property
    def due_step(self) -> int | None:
        """Where the stage must end: without an evaluation there it would run on to the next one."""
        end = self._deadline()
        return end[0] if end else None

    def lr_factor(self, step: int) -> float:
        schedule, whole = self._train.lr_schedule, self._train.max_steps
        if not self.plan.stages[self._stage].reset:
            return lr_factor(schedule, step, whole, self._switches)
        return lr_factor(schedule, step - self._entered_step, (self.due_step or whole) - self._entered_step)

    def observe(self, point: EvalPoint) -> Decision:
        """Take one evaluation into account; every dataset the stage is judged on must be scored in it."""
        record_losses(self._losses, point.scores, self.plan.stages[self._stage].judged)
        rule, reason = self._ending(point)
        if rule:
            self._enter_next(point)
        stage = self.plan.stages[self._stage]
        reason = {**reason, "rule": rule or reason["rule"]}
        return Decision(self._stage, stage.pool, self.weights, bool(rule), reason, reset=bool(rule) and stage.reset)

    def observe_gradients(self, step: int, stats: Any) -> Decision | None:
        """Gradients do not change a plan of stages."""
        return None

    def _ending(self, point: EvalPoint) -> tuple[str | None, dict[str, Any]]:
        """The rule that ends the stage, or None, and the numbers."""
        verdict: Verdict = detect_plateau(self._losses, self._plateau)
        tokens = point.tokens - self._entered_tokens
        reason = {
            "pool_loss": mean_loss(self._losses),
            "stage_tokens": tokens,
            "stage_steps": point.step - self._entered_step,
            **({"visits": self._visits} if self.plan.cycle else {}),
            **verdict.numbers,
        }
        if self._is_last():
            return None, {**reason, "rule": "last stage"}
        max_tokens = at_stage(self._limits.max_tokens, self._stage)
        if max_tokens is not None and tokens >= max_tokens:
            return "max_tokens", reason
        end = self._deadline()
        if end is not None and point.step >= end[0]:
            return end[1], reason
        by_plateau = self.plan.stages[self._stage].by_plateau
        if verdict.flat and by_plateau and tokens >= at_stage(self._limits.min_tokens, self._stage):
            return "plateau", reason
        return None, {**reason, "rule": "goes on"}

    def _is_last(self) -> bool:
        return self._stage == len(self.plan.stages) - 1 and not self.plan.cycle

    def _deadline(self) -> tuple[int, str] | None:
        if self._is_last():
            return None
        stage, number = self.plan.stages[self._stage], self._stage
        return deadline(stage, number, self._limits, entered_step=self._entered_step, max_steps=self._train.max_steps)

    def _enter_next(self, point: EvalPoint) -> None:
        self._visits += 1
        self._stage = (self._stage + 1) % len(self.plan.stages)
        self._entered_step, self._entered_tokens = point.step, point.tokens
        self._losses = {}
        self._switches.append(point.step)

    def state_dict(self) -> dict[str, Any]:
        """Stage, its entry (step, tokens), losses since then and switches, with the plan they belong to; plain JSON."""
        return {
            "version": 2,
            **self.plan.identity(),
            "stage": self._stage,
            "visits": self._visits,
            "entered_step": self._entered_step,
            "entered_tokens": self._entered_tokens,
            "losses": {name: list(values) for name, values in self._losses.items()},
            "switches": list(self._switches),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            CheckpointError: it belongs to a plan with other groups; a resume never regroups silently.
        """
        require_same_plan(state, self.state_dict(), self.plan)
        self._stage = state["stage"]
        self._visits = state["visits"]
        self._entered_step = state["entered_step"]
        self._entered_tokens = state["entered_tokens"]
        self._losses = {name: list(values) for name, values in state["losses"].items()}
        self._switches = list(state["switches"])

"""Controllers of one stage whose weights move: by gradients (`gram`, `pike`) or by losses (`mastering_rate`)."""

from __future__ import annotations

from typing import Any

from pipeline.config.schema import Recipe
from pipeline.data.mixture import with_floor
from pipeline.schedule.lr import lr_factor
from pipeline.schedule.policies.gradients import follow_gradients, seen_gram
from pipeline.schedule.policies.mastering import Prerequisites, attention, learning_progress, mastering_rates
from pipeline.schedule.shares import Shares, step_towards
from pipeline.schedule.stages import StagePlan
from pipeline.schedule.state import CurvesByDataset, mean_loss, record_losses, require_same_plan
from pipeline.types import Decision, EvalPoint


class WeightController:
    """All datasets from the first step on, from the recipe's weights on; each update obeys `schedule.reweight`.

    State is plain JSON: weights and the losses seen.
    """

    def __init__(self, plan: StagePlan, recipe: Recipe) -> None:
        assert len(plan.stages) == 1, "regimes of moving weights have one stage"
        self.plan = plan
        self._recipe = recipe
        stage = plan.stages[0]
        self._base = with_floor(stage.weights, recipe.schedule.reweight.floor / len(stage.weights))
        self._weights: Shares = dict(self._base)
        self._losses: CurvesByDataset = {}
        self._graph = Prerequisites.of(stage.pool, plan.requires or {})

    @property
    def stage(self) -> int:
        return 0

    @property
    def weights(self) -> dict[str, float]:
        return {name: self._weights[name] for name in self.plan.names}

    @property
    def due_step(self) -> int | None:
        return None

    def lr_factor(self, step: int) -> float:
        return lr_factor(self._recipe.train.lr_schedule, step, self._recipe.train.max_steps)

    def observe(self, point: EvalPoint) -> Decision:
        record_losses(self._losses, point.scores, self.plan.stages[0].judged)
        reason: dict[str, Any] = {"rule": "last stage", "pool_loss": mean_loss(self._losses)}
        if self.plan.regime == "mastering_rate":
            reason["mastering"] = self._follow_mastering()
        return self._decide(reason)

    def observe_gradients(self, step: int, stats: Any) -> Decision | None:
        estimate = None if self.plan.regime == "mastering_rate" else seen_gram(stats, self._weights)
        if estimate is None:
            return None
        policies = (self.plan.regime,)
        self._weights, numbers = follow_gradients(self._weights, estimate, policies, self._recipe)
        return self._decide({"rule": "gradients", "step": step, **numbers})

    def _follow_mastering(self) -> dict[str, Any]:
        """One step of the weights towards the attention; back towards the first weights when there is none to give."""
        config, bounds = self._recipe.schedule.mastering, self._recipe.schedule.reweight
        rates, progress = mastering_rates(self._losses, config), learning_progress(self._losses, config)
        given = attention(rates, progress, self._graph, config)
        total = sum(given.values())
        target = {name: value / total for name, value in given.items()} if total > 0 else self._base
        floored = with_floor(target, bounds.floor / len(target))
        self._weights = step_towards(self._weights, floored, bounds.max_change)
        return {"rates": rates, "progress": progress, "attention": given}

    def _decide(self, reason: dict[str, Any]) -> Decision:
        return Decision(0, self.plan.stages[0].pool, self.weights, False, reason)

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": 1,
            **self.plan.identity(),
            "weights": dict(self._weights),
            "losses": {name: list(values) for name, values in self._losses.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint; CheckpointError when it belongs to another plan."""
        require_same_plan(state, self.state_dict(), self.plan)
        self._weights = {name: state["weights"][name] for name in self._weights}
        self._losses = {name: list(values) for name, values in state["losses"].items()}

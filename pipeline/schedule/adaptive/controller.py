"""The adaptive controller: which part decides what, in one place. Each part is a switch of `schedule.adaptive`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipeline.config.schema import Recipe
from pipeline.schedule.adaptive.cost import per_second, seconds_per_token
from pipeline.schedule.adaptive.opportunity import worth_entering
from pipeline.schedule.adaptive.regroup import WindowEvidence, regroup
from pipeline.schedule.adaptive.saturation import Saturation, lowered
from pipeline.schedule.limits import at_stage, deadline, decay_start
from pipeline.schedule.lr import lr_factor
from pipeline.schedule.plateau import detect_plateau
from pipeline.schedule.policies.gradients import follow_gradients, seen_gram
from pipeline.schedule.shares import Shares
from pipeline.schedule.stages import StagePlan
from pipeline.schedule.state import CurvesByDataset, mean_loss, record_losses, require_same_plan
from pipeline.types import Decision, EvalPoint, Spent


class AdaptiveController:
    """Groups enter one after the other and stay; losses and gradients say when, with which weights and which next.

    It begins with the plan's first group. All state is plain JSON and a function of the evaluations and windows seen.
    """

    def __init__(self, plan: StagePlan, recipe: Recipe) -> None:
        self.plan = plan
        self._recipe = recipe
        self._config = recipe.schedule.adaptive
        self._names = plan.names
        self._groups = [list(stage.entering) for stage in plan.stages[1:]]  # still to come
        self._pool = list(plan.stages[0].pool)
        self._shares: Shares = {name: plan.stages[-1].weights[name] for name in self._names}  # as if all had entered
        self._saturation = Saturation(self._config.saturation)
        self._saturation.enter(self._pool, 0)
        self._evidence = WindowEvidence()
        self._losses: CurvesByDataset = {}
        self._clock: list[float] = []  # at each evaluation: tokens so far, each times its learning-rate factor
        self._last = (0, 0)  # step and tokens of the last evaluation
        self._entered = (0, 0, 0)  # step, tokens and evaluation at which the stage began
        self._stage = 0
        self._switches: list[int] = []
        self._spent: dict[str, Spent] = {}
        update = {"rewarm_steps": self._config.lr.rewarm_steps, "rewarm_floor": self._config.lr.rewarm_floor}
        schedule = recipe.train.lr_schedule
        self._decay_start = decay_start(recipe)
        self._lr = schedule.model_copy(update=update) if self._config.lr.enabled else schedule

    @property
    def stage(self) -> int:
        return self._stage

    @property
    def weights(self) -> dict[str, float]:
        """The pool's shares, saturated datasets at their floor, and what is explored outside."""
        shares = self._pool_shares()
        if self._config.cost_aware:
            shares = per_second(shares, self._spent)
        if not self._in_decay(self._last[0]):
            shares = lowered(shares, self._saturation.names, self._config.saturation.floor / len(self._names))
        explored = self._explored()
        inside = 1 - sum(explored.values())
        return {name: explored.get(name, inside * shares.get(name, 0.0)) for name in self._names}

    @property
    def due_step(self) -> int | None:
        """The next limit, or the beginning of the final decay."""
        end, decay = self._deadline(), self._decay_start
        steps = [end[0]] if end else []
        steps += [decay] if decay is not None and decay > self._last[0] else []
        return min(steps, default=None)

    def lr_factor(self, step: int) -> float:
        return lr_factor(self._lr, step, self._recipe.train.max_steps, self._switches)

    def observe(self, point: EvalPoint) -> Decision:
        """Take one evaluation into account; every dataset of the plan must be scored in it."""
        self._record(point)
        reason: dict[str, Any] = {"pool_loss": mean_loss({name: self._losses[name] for name in self._pool})}
        if self._config.saturation.enabled:
            reason["saturation"] = self._saturation.update(self._losses)
            reason["saturated"] = self._saturation.names
        rule, numbers = self._ending(point)
        reason |= {**numbers, "rule": rule or numbers["rule"]}
        if rule:
            reason |= self._enter_next(point, everybody=rule == "final decay")
        return Decision(self._stage, tuple(self._pool), self.weights, bool(rule), reason)

    def observe_gradients(self, step: int, stats: Any) -> Decision | None:
        """Collect evidence for new groups, and move the pool's shares."""
        everybody = seen_gram(stats, self._shares)
        if everybody is not None and self._config.regroup.enabled:
            self._evidence.add(everybody)
        shares = self._pool_shares()
        estimate = seen_gram(stats, shares) if self._config.policies else None
        if estimate is None:
            return None
        new, numbers = follow_gradients(shares, estimate, self._config.policies, self._recipe)
        mass = sum(self._shares[name] for name in self._pool)
        self._shares |= {name: mass * share for name, share in new.items()}
        reason = {"rule": "gradients", "step": step, **numbers}
        return Decision(self._stage, tuple(self._pool), self.weights, False, reason)

    def _record(self, point: EvalPoint) -> None:
        record_losses(self._losses, point.scores, self._names)
        step, tokens = self._last
        steps = range(step + 1, point.step + 1)
        factor = sum(self.lr_factor(each) for each in steps) / len(steps) if steps else 0.0
        self._clock.append((self._clock[-1] if self._clock else 0.0) + factor * (point.tokens - tokens))
        self._last, self._spent = (point.step, point.tokens), dict(point.spent)

    def _ending(self, point: EvalPoint) -> tuple[str | None, dict[str, Any]]:
        """The rule that ends the stage, or None, and the numbers."""
        limits, advance = self._recipe.schedule.stage, self._config.advance
        tokens = point.tokens - self._entered[1]
        reason: dict[str, Any] = {"stage_tokens": tokens, "stage_steps": point.step - self._entered[0]}
        if not self._groups:
            return None, {**reason, "rule": "last stage"}
        if self._in_decay(point.step):
            return "final decay", reason
        max_tokens = at_stage(limits.max_tokens, self._stage)
        if max_tokens is not None and tokens >= max_tokens:
            return "max_tokens", reason
        end = self._deadline()
        if end is not None and point.step >= end[0]:
            return end[1], reason
        if advance.enabled:
            rule = "opportunity"
            ends, numbers = worth_entering(
                self._losses, self._clock, pool=self._pool, group=self._groups[0], since=self._entered[2],
                cost_ratio=self._cost_ratio(), config=advance,
            )  # fmt: skip
        else:
            rule = "plateau"
            stage_losses = {name: self._losses[name][self._entered[2] :] for name in self._pool}
            verdict = detect_plateau(stage_losses, self._recipe.schedule.plateau)
            ends, numbers = verdict.flat, verdict.numbers
        enough = tokens >= at_stage(limits.min_tokens, self._stage)
        return (rule if ends and enough else None), {**reason, **numbers, "rule": "goes on"}

    def _enter_next(self, point: EvalPoint, *, everybody: bool) -> dict[str, Any]:
        """Bring in the next group, or all that are left; returns what regrouping said."""
        said: dict[str, Any] = {}
        if self._config.regroup.enabled and not everybody:
            self._groups, said = regroup(self._groups, self._pool_shares(), self._evidence, self._config.regroup)
        count = len(self._groups) if everybody else 1
        entering = [name for group in self._groups[:count] for name in group]
        self._groups = self._groups[count:]
        self._pool += entering
        self._saturation.enter(entering, len(self._clock) - 1)
        self._entered = (point.step, point.tokens, len(self._clock) - 1)
        self._stage += 1
        if not everybody:  # the decay needs no climb before it
            self._switches.append(point.step)
        return {"entering": entering, **({"regroup": said} if said else {})}

    def _pool_shares(self) -> Shares:
        mass = sum(self._shares[name] for name in self._pool)
        return {name: self._shares[name] / mass for name in self._pool}

    def _explored(self) -> Shares:
        """Shares of datasets that have not entered, while there is something to regroup."""
        outside = [name for group in self._groups for name in group]
        if not self._config.regroup.enabled or not 1 < len(self._groups) < len(outside):
            return {}
        return dict.fromkeys(outside, self._config.regroup.explore / len(outside))

    def _cost_ratio(self) -> float:
        """Seconds per token of the pool over those of the next group; 1 when cost does not count or is not known."""
        if not self._config.cost_aware:
            return 1.0
        pool = seconds_per_token(self._spent, self._pool_shares())
        group = seconds_per_token(self._spent, {name: self._shares[name] for name in self._groups[0]})
        return pool / group if pool and group else 1.0

    def _deadline(self) -> tuple[int, str] | None:
        if not self._groups:
            return None
        stage, limits = self.plan.stages[min(self._stage, len(self.plan.stages) - 1)], self._recipe.schedule.stage
        max_steps = self._recipe.train.max_steps
        return deadline(stage, self._stage, limits, entered_step=self._entered[0], max_steps=max_steps)

    def _in_decay(self, step: int) -> bool:
        return self._decay_start is not None and step >= self._decay_start

    def state_dict(self) -> dict[str, Any]:
        """Everything later decisions depend on, with the plan it belongs to; plain JSON."""
        return {
            "version": 1,
            **self.plan.identity(),
            "groups": [list(group) for group in self._groups],
            "pool": list(self._pool),
            "shares": dict(self._shares),
            "saturation": self._saturation.state_dict(),
            "evidence": self._evidence.state_dict(),
            "losses": {name: list(values) for name, values in self._losses.items()},
            "clock": list(self._clock),
            "last": list(self._last),
            "entered": list(self._entered),
            "stage": self._stage,
            "switches": list(self._switches),
            "spent": {name: asdict(spent) for name, spent in self._spent.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint; CheckpointError when it belongs to another plan."""
        require_same_plan(state, self.state_dict(), self.plan)
        self._groups = [list(group) for group in state["groups"]]
        self._pool = list(state["pool"])
        self._shares = {name: state["shares"][name] for name in self._names}
        self._saturation.load_state_dict(state["saturation"])
        self._evidence.load_state_dict(state["evidence"])
        self._losses = {name: list(values) for name, values in state["losses"].items()}
        self._clock = list(state["clock"])
        self._last = (state["last"][0], state["last"][1])
        self._entered = (state["entered"][0], state["entered"][1], state["entered"][2])
        self._stage = state["stage"]
        self._switches = list(state["switches"])
        self._spent = {name: Spent(**spent) for name, spent in state["spent"].items()}

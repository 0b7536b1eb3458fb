"""The training loop. Everything it needs is handed in; it decides nothing but the order of things."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any, Protocol

import torch

from pipeline.config import Recipe
from pipeline.dist import Comm
from pipeline.engine.checkpoint import CheckpointStore
from pipeline.engine.partitions import loss_scale
from pipeline.engine.restart import FreshStarts
from pipeline.engine.setup import device_of, set_learning_rate
from pipeline.engine.strategies import BestSoFar, Strategies
from pipeline.errors import TrainingError
from pipeline.models.loss import answer_loss, sums_by_dataset
from pipeline.runlog import EventLog, MlflowLog, RunConsole, metrics_of
from pipeline.types import Clock, Controller, DatasetScore, Decision, EvalPoint, MicroBatch, Spent, Stateful


class Loader(Stateful, Protocol):
    """This rank's micro-batches of the next global step; weights take effect at the next step."""

    def next_step(self) -> list[MicroBatch]: ...

    def set_weights(self, weights: dict[str, float]) -> None: ...


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


def random_state() -> dict[str, torch.Tensor]:
    """State of the generators that dropout draws from; everything else draws from its own counters."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class Trainer:
    """One run of one arm.

    Args:
        evaluate: scores the fixed validation probe set, on every rank alike.
        closed_window: statistics of the window of gradients that the recorder has just closed; asked on rank 0 only.
        fresh_starts: for schedules with stages that begin anew.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        engine: Any,
        loader: Loader,
        controller: Controller,
        evaluate: Callable[[], dict[str, DatasetScore]],
        datasets: list[str],
        comm: Comm,
        events: EventLog,
        console: RunConsole,
        checkpoints: CheckpointStore | None = None,
        recorder: GradientRecorder | None = None,
        mlflow: MlflowLog | None = None,
        closed_window: Callable[[], Any] | None = None,
        fresh_starts: FreshStarts | None = None,
    ) -> None:
        self.recipe = recipe
        self.engine = engine
        self.loader = loader
        self.controller = controller
        self.evaluate = evaluate
        self.datasets = datasets
        self.comm = comm
        self.events = events
        self.console = console
        self.checkpoints = checkpoints
        self.recorder = recorder
        self.mlflow = mlflow
        self.closed_window = closed_window
        self.fresh_starts = fresh_starts
        self.strategies = Strategies(recipe, engine, comm)
        self.best = BestSoFar(recipe.train.keep_best, datasets) if recipe.train.keep_best else None
        self.clock = Clock()
        self.spent: dict[str, Spent] = {}
        self._tick = time.monotonic()

    def run(self) -> Clock:
        """Train to the end of the recipe's budget; leaves the weights in the model that the recipe wants judged."""
        self._tick = time.monotonic()
        if self.clock.step == 0:
            self._start()
        while self.clock.step < self.recipe.train.max_steps:
            self._train_one_step()
            wanted = self.clock.step == self.controller.due_step
            is_best = (wanted or self._due(self.recipe.train.eval_every)) and self._evaluate_and_decide()
            if is_best or self._due(self.recipe.train.checkpoint_every):
                self.save(is_best)
        self._settle()
        return self.clock

    def warm_up(self, steps: int) -> None:
        """Train `steps` steps and nothing else: no evaluation, no decision, no checkpoint."""
        while self.clock.step < steps:
            self._train_one_step()

    def save(self, is_best: bool = False) -> None:
        """Write a checkpoint of everything that the rest of the run depends on; the best one's judged weights too."""
        if self.checkpoints is None:
            return
        self._advance_wall()
        shared = {
            "clock": asdict(self.clock),
            "loader": self.loader.state_dict(),
            "controller": self.controller.state_dict(),
            "best": self.best.state_dict() if self.best else None,
            "spent": {name: asdict(spent) for name, spent in self.spent.items()},
            "fresh_starts": self.fresh_starts.state_dict() if self.fresh_starts else None,
        }
        per_rank = {
            "rng": random_state(),
            "recorder": self.recorder.state_dict() if self.recorder else {},
            "strategies": self.strategies.state_dict(),
            "judged_weights": self.strategies.copy_judged() if is_best else None,
        }
        best_step = self.best.step if self.best else None
        self.checkpoints.save(self.engine, self.clock.step, shared, per_rank, best_step)
        self.events.write("checkpoint", step=self.clock.step)

    def resume(self) -> bool:
        """Continue from the newest complete checkpoint; False when there is none."""
        folder = self.checkpoints.latest() if self.checkpoints else None
        if folder is None or self.checkpoints is None:
            return False
        shared, per_rank = self.checkpoints.load(self.engine, folder)
        self.clock = Clock(**shared["clock"])
        self.loader.load_state_dict(shared["loader"])
        self.controller.load_state_dict(shared["controller"])
        self.spent = {name: Spent(**spent) for name, spent in shared["spent"].items()}
        if self.fresh_starts:
            self.fresh_starts.load_state_dict(shared["fresh_starts"])
        set_random_state(per_rank["rng"])
        self.strategies.load_state_dict(per_rank["strategies"])
        if self.best:
            self.best.load_state_dict(shared["best"])
        if self.recorder:
            self.recorder.load_state_dict(per_rank["recorder"])
        self.events.write("resume", step=self.clock.step, checkpoint=folder.name)
        self.console.say(f"resumed at step {self.clock.step} from {folder.name}")
        return True

    def _start(self) -> None:
        if self.fresh_starts:
            self.fresh_starts.remember(self.engine, self.strategies)
        self.loader.set_weights(self.controller.weights)
        self._log_stage(self.controller.stage, self._drawn(), {"rule": "start"})
        self._evaluate_and_decide()

    def _train_one_step(self) -> None:
        batches = self.loader.next_step()
        lr = self.recipe.train.peak_lr * self.controller.lr_factor(self.clock.step + 1)
        set_learning_rate(self.engine, lr)
        self.strategies.before_step(self.clock.step + 1, batches)
        sums, watched = self._optimizer_step(batches)
        self.strategies.after_step(self.clock.step)
        self._log_step(sums, lr, watched)
        self._close_window()

    def _optimizer_step(self, batches: list[MicroBatch]) -> tuple[torch.Tensor, dict[str, float]]:
        """Forward and backward of every micro-batch, then one step.

        Returns:
            Sums [D, 4]: loss, tokens, examples, seconds; and what the strategies saw of the gradient.
        """
        sums, watched = torch.zeros(len(self.datasets), 4, dtype=torch.float64), {}
        for batch in batches:
            started_s = time.perf_counter()
            inputs = {name: tensor.to(device_of(self.engine)) for name, tensor in batch.inputs.items()}
            labels = inputs.pop("labels")
            logits = self.engine(**inputs).logits
            loss = answer_loss(logits, labels, self.recipe.train.label_smoothing)
            with self._recording(batch, loss.tokens, scale=len(batches) / loss_scale(self.engine)):
                self.engine.backward(loss.mean)
            if self.recorder and batch is batches[-1]:
                self.recorder.reduced()
            if batch is batches[-1]:
                watched = self.strategies.reduced()
            parts = {batch.dataset: (loss.loss_sum, loss.tokens, loss.examples)}
            if batch.datasets is not None:
                parts = sums_by_dataset(logits, labels, batch.datasets)
            seconds = (time.perf_counter() - started_s) / loss.examples
            for name, part in parts.items():
                sums[self.datasets.index(name)] += torch.tensor([*part, part[2] * seconds])
            self.engine.step()
        sums = self.comm.all_reduce_sum(sums)
        self.clock.step += 1
        self.clock.samples += int(sums[:, 2].sum())
        self.clock.tokens += int(sums[:, 1].sum())
        if not bool(torch.isfinite(sums).all()):
            raise TrainingError(
                "the loss is not finite",
                where={"step": self.clock.step, "rank": self.comm.rank, "datasets": self._non_finite(sums)},
                hint="lower train.optimizer.lr, or look at these datasets' audio and answers",
            )
        self._count_spent(sums)
        return sums, watched

    def _count_spent(self, sums: torch.Tensor) -> None:
        for name, (_, tokens, examples, seconds) in zip(self.datasets, sums.tolist(), strict=True):
            if examples:
                past = self.spent.get(name, Spent(0, 0, 0.0))
                self.spent[name] = Spent(
                    past.examples + int(examples), past.tokens + int(tokens), past.seconds + seconds
                )

    def _recording(self, batch: MicroBatch, tokens: int, scale: float) -> AbstractContextManager[None]:
        # DeepSpeed divides the loss by the accumulation steps, and under fp16 multiplies it; `scale` undoes both.
        return self.recorder.micro_batch(batch, tokens, scale) if self.recorder else nullcontext()

    def _evaluate_and_decide(self) -> bool:
        """One evaluation of the weights to be judged; True when it is the best so far."""
        with self.strategies.judged_weights():
            scores = self.evaluate()
        self._advance_wall()
        clock = self.clock
        event = self._log(
            "eval",
            split="val",
            **asdict(clock),
            stage=self.controller.stage,
            datasets={name: score.to_json() for name, score in scores.items()},
        )
        point = EvalPoint(clock.step, clock.samples, clock.tokens, scores, dict(self.spent))
        self._follow("decision", lambda: self.controller.observe(point))
        return self.best is not None and self.best.improves(clock.step, metrics_of(event))

    def _close_window(self) -> None:
        """At the end of a window of gradients: log what they say, and let the schedule act on it."""
        window = self.recorder.end_of_step(self.clock.step) if self.recorder else None
        if not window:
            return
        self._log("sketch", step=self.clock.step, **window)
        if "note" in window:
            self.console.say(f"step {self.clock.step}: {window['note']}")
        if self.closed_window is not None:
            step, closed = self.clock.step, self.closed_window
            self._follow("gradient_decision", lambda: self.controller.observe_gradients(step, closed()))

    def _follow(self, event: str, ask: Callable[[], Decision | None]) -> None:
        """Rank 0 decides and all ranks do it: floating point may differ between machines, decisions may not."""
        leaving, before = self._drawn(), self.controller.weights
        told = None
        if self.comm.rank == 0:
            decision = ask()
            told = decision, self.controller.state_dict()
        decision, state = self.comm.broadcast_object(told)
        if self.comm.rank != 0:
            self.controller.load_state_dict(state)
        if decision is None:
            return
        moved = {"weights": decision.weights} if decision.weights != before else {}
        self.events.write(event, step=self.clock.step, advanced=decision.advanced, reason=decision.reason, **moved)
        if decision.reset and self.fresh_starts:
            self._advance_wall()
            self.fresh_starts.begin(self.engine, self.strategies, leaving)
            self._tick = time.monotonic()  # testing the model that goes is not training
        if moved:
            self.loader.set_weights(decision.weights)
        if decision.advanced:
            self._log_stage(decision.stage, list(decision.pool), decision.reason)

    def _drawn(self) -> list[str]:
        return [name for name, weight in self.controller.weights.items() if weight > 0]

    def _settle(self) -> None:
        """End with the best evaluation's weights if the recipe says so, else with the average if there is one."""
        keep_best, values = self.recipe.train.keep_best, None
        if keep_best and keep_best.use_for_test and self.best and self.best.step and self.checkpoints:
            values = self.checkpoints.load_per_rank(self.checkpoints.at(self.best.step))["judged_weights"]
            self.events.write("best", step=self.clock.step, of=self.best.step, value=self.best.value)
            self.console.say(f"testing the weights of step {self.best.step}, {keep_best.metric} {self.best.value:.4f}")
        self.strategies.keep_judged(values)

    def _log_stage(self, stage: int, pool: list[str], reason: dict[str, Any]) -> None:
        self._log(
            "stage",
            step=self.clock.step,
            samples=self.clock.samples,
            stage=stage,
            pool=pool,
            weights=self.controller.weights,
            reason=reason,
        )
        self.console.say(f"step {self.clock.step}: stage {stage} ({reason['rule']}), pool: {', '.join(sorted(pool))}")

    def _log_step(self, sums: torch.Tensor, lr: float, watched: dict[str, float]) -> None:
        self._advance_wall()
        clock = self.clock
        loss = float(sums[:, 0].sum() / sums[:, 1].sum())
        grad_norm = float(self.engine.get_global_grad_norm() or 0.0)
        datasets = {
            name: {"n": int(row[2]), "loss": float(row[0] / row[1])}
            for name, row in zip(self.datasets, sums, strict=True)
            if row[2]
        }
        self._log(
            "step",
            **asdict(clock),
            loss=loss,
            lr=lr,
            grad_norm=grad_norm,
            stage=self.controller.stage,
            datasets=datasets,
            **watched,
        )
        self.console.step(clock.step, loss=loss, stage=self.controller.stage, samples=clock.samples)

    def _log(self, event: str, **fields: Any) -> dict[str, Any]:
        """Write an event; what of it is a metric goes to MLflow as well."""
        written = self.events.write(event, **fields)
        if self.mlflow:
            self.mlflow.event(written)
        return written

    def _due(self, every: int) -> bool:
        return self.clock.step % every == 0 or self.clock.step == self.recipe.train.max_steps

    def _advance_wall(self) -> None:
        now = time.monotonic()
        self.clock.wall_s += now - self._tick
        self._tick = now

    def _non_finite(self, sums: torch.Tensor) -> str:
        return ", ".join(name for name, row in zip(self.datasets, sums, strict=True) if not torch.isfinite(row).all())

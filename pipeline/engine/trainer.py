"""The training loop. Everything it needs is handed in; it decides nothing but the order of things."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import torch

from pipeline.config import Recipe
from pipeline.dist import Comm
from pipeline.engine.checkpoint import CheckpointStore
from pipeline.engine.handed_in import GradientRecorder, Loader
from pipeline.engine.partitions import loss_scale
from pipeline.engine.random_state import random_state, set_random_state
from pipeline.engine.redeal import Redeal
from pipeline.engine.restart import FreshStarts
from pipeline.engine.setup import device_of, set_learning_rate
from pipeline.engine.step_sums import StepSums
from pipeline.engine.strategies import BestSoFar, Strategies
from pipeline.engine.throughput import Meter
from pipeline.errors import TrainingError
from pipeline.models.teacher import TeacherForcing
from pipeline.runlog import EventLog, MlflowLog, RunConsole, metrics_of
from pipeline.stopping import StopSignals
from pipeline.types import Clock, Controller, DatasetScore, Decision, EvalPoint, MicroBatch, Spent


class Trainer:
    """One run of one arm.

    Args:
        evaluate: scores the fixed validation probe set, on every rank alike.
        closed_window: statistics of the window of gradients that the recorder has just closed; asked on rank 0 only.
        fresh_starts: for schedules with stages that begin anew.
        stop: signals that ask to stop; None: nobody asks.
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
        stop: StopSignals | None = None,
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
        self.stop = stop or StopSignals()
        self.device = device_of(engine)
        self.teacher = TeacherForcing(engine, self.device, recipe.train.speed)
        self.meter = Meter(engine.module, self.device, recipe.model.dtype, comm)
        self.strategies = Strategies(recipe, engine, comm)
        self.best = BestSoFar(recipe.train.keep_best, datasets) if recipe.train.keep_best else None
        self.clock = Clock()
        self.spent: dict[str, Spent] = {}
        self._tick = time.monotonic()
        self._unfinished = False  # the step has been trained, and is not yet evaluated and decided on
        self._stopping = False  # some rank has been asked to stop; the same on all of them
        self._saved_step: int | None = None

    def run(self) -> Clock:
        """Train to the end of the recipe's budget; leaves the weights in the model that the recipe wants judged.

        Raises:
            Stopped: on every rank, with a checkpoint written, when any of them was asked to stop.
        """
        self._tick = time.monotonic()
        if self.clock.step == 0:
            self._start()
        with self.stop.deferred():
            self._finish_step()  # of the run that was stopped
            while self.clock.step < self.recipe.train.max_steps:
                self._train_one_step()
                self._leave_if_asked()
                self._finish_step()
                self._leave_if_asked()
        self._settle()
        return self.clock

    def _finish_step(self) -> None:
        """What is due after a step: evaluation, the schedule's decision, a checkpoint."""
        if not self._unfinished:
            return
        wanted = self.clock.step == self.controller.due_step
        evaluated = wanted or self._due(self.recipe.train.eval_every)
        is_best = evaluated and self._evaluate_and_decide()
        self._unfinished = False
        saved = is_best or self._due(self.recipe.train.checkpoint_every)
        if saved:
            self.save(is_best)
        if evaluated or saved:  # took a while, in which somebody may have asked
            self._stopping = bool(self.comm.all_reduce_sum(self._asked()))

    def _leave_if_asked(self) -> None:
        """Every rank saves and raises `Stopped` when one of them was asked to stop; else nothing."""
        if not self._stopping:
            return
        if self._saved_step != self.clock.step:
            self.save()
        self.events.write("stopped", step=self.clock.step, signal=self.stop.received)
        raise self.stop.stopped_together(self.checkpoints.at(self.clock.step).name if self.checkpoints else None)

    def _asked(self) -> torch.Tensor:
        """[1]: whether this rank was asked to stop, to be summed over ranks."""
        return torch.tensor([float(self.stop.received is not None)], dtype=torch.float64)

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
            "unfinished": self._unfinished,
        }
        per_rank = {
            "rng": random_state(),
            "recorder": self.recorder.state_dict() if self.recorder else {},
            "strategies": self.strategies.state_dict(),
            "judged_weights": self.strategies.copy_judged() if is_best else None,
        }
        best_step = self.best.step if self.best else None
        self.checkpoints.save(self.engine, self.clock.step, shared, per_rank, best_step)
        self._saved_step = None if self._unfinished else self.clock.step
        self.events.write("checkpoint", step=self.clock.step)

    def resume(self, step: int | None = None) -> bool:
        """Continue from a checkpoint: that of `step`, or the newest complete one; False when there is none.

        On another number of ranks than wrote it everything goes on exactly, but for dropout: each rank has drawn from
        a generator of its own. The log and the console say so.

        Raises:
            CheckpointError: the one of `step` is not there, or it is none of this run.
        """
        if self.checkpoints is None:
            return False
        folder = self.checkpoints.latest() if step is None else self.checkpoints.find(step)
        if folder is None:
            return False
        saved = self.checkpoints.load(self.engine, folder)
        shared = saved.shared
        self.clock = Clock(**shared["clock"])
        self.loader.load_state_dict(shared["loader"])
        self.controller.load_state_dict(shared["controller"])
        self.spent = {name: Spent(**spent) for name, spent in shared["spent"].items()}
        if self.fresh_starts:
            self.fresh_starts.load_state_dict(shared["fresh_starts"])
        self._unfinished = shared["unfinished"]
        self._saved_step = None if self._unfinished else self.clock.step
        set_random_state(saved.mine("rng", self._new_random_state))
        self.strategies.load_state_dict(saved.mine("strategies", self.strategies.redealt))
        if self.best:
            self.best.load_state_dict(shared["best"])
        if self.recorder:
            recorder = self.recorder
            recorder.load_state_dict(saved.mine("recorder", lambda states, _: recorder.redealt(states)))
        changed: dict[str, Any] = {}
        if saved.redeal is not None:
            changed = {"ranks_before": saved.world_size, "ranks": self.comm.world_size, "begun_anew": ["dropout"]}
        self.events.write("resume", step=self.clock.step, checkpoint=folder.name, **changed)
        self.console.say(f"resumed at step {self.clock.step} from {folder.name}")
        if changed:
            self.console.say(
                f"it was written by {saved.world_size} ranks, now there are {self.comm.world_size}: dropout draws "
                "anew, everything else goes on as it was"
            )
        return True

    def _new_random_state(self, states: list[Any], redeal: Redeal) -> dict[str, torch.Tensor]:
        """For dropout of a rank that was not there before, or was another one: of its own, and the same every time."""
        torch.manual_seed(self.recipe.train.seed + 1_000_003 * (1 + self.comm.rank) + 7_919 * self.clock.step)
        return random_state()

    def _start(self) -> None:
        if self.fresh_starts:
            self.fresh_starts.remember(self.engine, self.strategies)
        self.loader.set_weights(self.controller.weights)
        self._log_stage(self.controller.stage, self._drawn(), {"rule": "start"})
        self._evaluate_and_decide()

    def _train_one_step(self) -> None:
        self.meter.begin()
        batches = self.loader.next_step()
        self.meter.data_ready()
        lr = self.recipe.train.peak_lr * self.controller.lr_factor(self.clock.step + 1)
        set_learning_rate(self.engine, lr)
        self.strategies.before_step(self.clock.step + 1, batches)
        local, watched = self._optimizer_step(batches)
        rows = self.meter.rows(batches, self.loader.skipped)
        sums, rows, asked = local.reduced(self.comm, rows, self._asked())
        self._stopping = bool(asked)
        self._count(sums)
        self.strategies.after_step(self.clock.step)
        self._log_step(sums, lr=lr, **watched, **self.meter.end(rows, float(sums[:, 2].sum())))
        self._close_window()

    def _optimizer_step(self, batches: list[MicroBatch]) -> tuple[StepSums, dict[str, float]]:
        """Forward and backward of every micro-batch, then one step.

        Returns:
            This rank's sums; and what the strategies saw of the gradient.
        """
        sums, watched = StepSums(self.datasets, self.device), {}
        for batch in batches:
            with sums.timed():
                with self.meter.forward():
                    loss = self.teacher.loss(batch, self.recipe.train.label_smoothing)
                with self._recording(batch, loss.tokens, scale=len(batches) / loss_scale(self.engine)):
                    self.engine.backward(loss.mean)
            sums.add(loss)
            if batch is batches[-1]:
                if self.recorder:
                    self.recorder.reduced()
                watched = self.strategies.reduced()
            self.engine.step()
        return sums, watched

    def _count(self, sums: torch.Tensor) -> None:
        """Advance the clock and the accounts by a step's sums [D, 4] over all ranks, see `StepSums`."""
        self.clock.step += 1
        self._unfinished = True
        self.clock.samples += int(sums[:, 2].sum())
        self.clock.tokens += int(sums[:, 1].sum())
        if not bool(torch.isfinite(sums).all()):
            raise TrainingError(
                "the loss is not finite",
                where={"step": self.clock.step, "rank": self.comm.rank, "datasets": self._non_finite(sums)},
                hint="lower train.optimizer.lr, or look at these datasets' audio and answers",
            )
        self._count_spent(sums)

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
            saved = self.checkpoints.read(self.engine, self.checkpoints.at(self.best.step))
            values = saved.mine("judged_weights", lambda states, redeal: redeal.flats(states))
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

    def _log_step(self, sums: torch.Tensor, **numbers: Any) -> None:
        self._advance_wall()
        clock, stage = self.clock, self.controller.stage
        loss = float(sums[:, 0].sum() / sums[:, 1].sum())
        datasets = {
            name: {"n": int(row[2]), "loss": float(row[0] / row[1])}
            for name, row in zip(self.datasets, sums, strict=True)
            if row[2]
        }
        grad_norm = float(self.engine.get_global_grad_norm() or 0.0)
        self._log("step", **asdict(clock), loss=loss, grad_norm=grad_norm, stage=stage, datasets=datasets, **numbers)
        speed = numbers["throughput"]
        shown = {"samples/s": speed["samples_per_s"], "waiting for data": f"{speed['data_wait_share']:.0%}"}
        self.console.step(clock.step, loss=loss, stage=stage, samples=clock.samples, **shown)

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

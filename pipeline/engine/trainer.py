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
from pipeline.engine.setup import device_of, set_learning_rate
from pipeline.errors import TrainingError
from pipeline.models.loss import answer_loss
from pipeline.runlog import EventLog, MlflowLog, RunConsole, flat_numbers
from pipeline.types import Clock, Controller, DatasetScore, EvalPoint, MicroBatch, Stateful


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


class Trainer:
    """One run of one arm. `evaluate` scores the fixed validation probe set on every rank alike."""

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
        self.clock = Clock()
        self.resumed_mlflow_run_id: str | None = None
        self._tick = time.monotonic()

    def run(self) -> Clock:
        """Train to the end of the recipe's budget."""
        self._tick = time.monotonic()
        if self.clock.step == 0:
            self._start()
        while self.clock.step < self.recipe.train.max_steps:
            self._train_one_step()
            if self._due(self.recipe.train.eval_every):
                self._evaluate_and_decide()
            if self._due(self.recipe.train.checkpoint_every):
                self.save()
        return self.clock

    def warm_up(self, steps: int) -> None:
        """Train `steps` steps and nothing else: no evaluation, no decision, no checkpoint."""
        while self.clock.step < steps:
            self._train_one_step()

    def save(self) -> None:
        """Write a checkpoint of everything that the rest of the run depends on."""
        if self.checkpoints is None:
            return
        self._advance_wall()
        shared = {
            "clock": asdict(self.clock),
            "loader": self.loader.state_dict(),
            "controller": self.controller.state_dict(),
            "mlflow_run_id": self.mlflow.run_id if self.mlflow else None,
        }
        per_rank = {
            "torch_rng": torch.get_rng_state(),  # dropout; everything else draws from its own counters
            "recorder": self.recorder.state_dict() if self.recorder else {},
        }
        self.checkpoints.save(self.engine, self.clock.step, shared, per_rank)
        self.events.write("checkpoint", step=self.clock.step)

    def resume(self) -> bool:
        """Continue from the newest complete checkpoint; False when there is none."""
        folder = self.checkpoints.latest() if self.checkpoints else None
        if folder is None or self.checkpoints is None:
            return False
        shared, per_rank = self.checkpoints.load(self.engine, folder)
        self.clock = Clock(**shared["clock"])
        self.resumed_mlflow_run_id = shared["mlflow_run_id"]
        self.loader.load_state_dict(shared["loader"])
        self.controller.load_state_dict(shared["controller"])
        torch.set_rng_state(per_rank["torch_rng"])
        if self.recorder:
            self.recorder.load_state_dict(per_rank["recorder"])
        self.events.write("resume", step=self.clock.step, checkpoint=folder.name)
        self.console.say(f"resumed at step {self.clock.step} from {folder.name}")
        return True

    def _start(self) -> None:
        self.loader.set_weights(self.controller.weights)
        pool = [name for name, weight in self.controller.weights.items() if weight > 0]
        self._log_stage(self.controller.stage, pool, {"rule": "start"})
        self._evaluate_and_decide()

    def _train_one_step(self) -> None:
        batches = self.loader.next_step()
        lr = self.recipe.train.optimizer.lr * self.controller.lr_factor(self.clock.step + 1)
        set_learning_rate(self.engine, lr)
        sums = self._optimizer_step(batches)
        self._log_step(sums, lr)

    def _optimizer_step(self, batches: list[MicroBatch]) -> torch.Tensor:
        """Forward and backward of every micro-batch, then one step; returns sums [D, 3]: loss, tokens, examples."""
        sums = torch.zeros(len(self.datasets), 3, dtype=torch.float64)
        for batch in batches:
            inputs = {name: tensor.to(device_of(self.engine)) for name, tensor in batch.inputs.items()}
            labels = inputs.pop("labels")
            loss = answer_loss(self.engine(**inputs).logits, labels)
            with self._recording(batch, loss.tokens, scale=len(batches) / loss_scale(self.engine)):
                self.engine.backward(loss.mean)
            if self.recorder and batch is batches[-1]:
                self.recorder.reduced()
            self.engine.step()
            sums[self.datasets.index(batch.dataset)] += torch.tensor([loss.loss_sum, loss.tokens, loss.examples])
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
        return sums

    def _recording(self, batch: MicroBatch, tokens: int, scale: float) -> AbstractContextManager[None]:
        # DeepSpeed divides the loss by the accumulation steps, and under fp16 multiplies it; `scale` undoes both.
        return self.recorder.micro_batch(batch, tokens, scale) if self.recorder else nullcontext()

    def _evaluate_and_decide(self) -> None:
        scores = self.evaluate()
        self._advance_wall()
        clock = self.clock
        self.events.write(
            "eval",
            split="val",
            **asdict(clock),
            stage=self.controller.stage,
            datasets={name: score.to_json() for name, score in scores.items()},
        )
        self._metrics({f"val/{name}/loss": score.loss for name, score in scores.items()})
        self._metrics({f"val/{name}/token_accuracy": score.token_accuracy for name, score in scores.items()})
        decision = self.controller.observe(EvalPoint(clock.step, clock.samples, clock.tokens, scores))
        self.events.write("decision", step=clock.step, advanced=decision.advanced, reason=decision.reason)
        if decision.advanced:
            self.loader.set_weights(decision.weights)
            self._log_stage(decision.stage, list(decision.pool), decision.reason)

    def _log_stage(self, stage: int, pool: list[str], reason: dict[str, Any]) -> None:
        self.events.write(
            "stage",
            step=self.clock.step,
            samples=self.clock.samples,
            stage=stage,
            pool=pool,
            weights=self.controller.weights,
            reason=reason,
        )
        self._metrics({"stage": float(stage)})
        self.console.say(f"step {self.clock.step}: stage {stage} ({reason['rule']}), pool: {', '.join(sorted(pool))}")

    def _log_step(self, sums: torch.Tensor, lr: float) -> None:
        self._advance_wall()
        clock = self.clock
        loss = float(sums[:, 0].sum() / sums[:, 1].sum())
        grad_norm = float(self.engine.get_global_grad_norm() or 0.0)
        datasets = {
            name: {"n": int(row[2]), "loss": float(row[0] / row[1])}
            for name, row in zip(self.datasets, sums, strict=True)
            if row[2]
        }
        self.events.write(
            "step",
            **asdict(clock),
            loss=loss,
            lr=lr,
            grad_norm=grad_norm,
            stage=self.controller.stage,
            datasets=datasets,
        )
        window = self.recorder.end_of_step(clock.step) if self.recorder else None
        if window:
            self.events.write("sketch", step=clock.step, **window)
            self._metrics(flat_numbers("sketch", window))
            if "note" in window:
                self.console.say(f"step {clock.step}: {window['note']}")
        if clock.step % 10 == 0:
            self._metrics({"train/loss": loss, "train/lr": lr, "train/grad_norm": grad_norm})
        self.console.step(clock.step, loss=loss, stage=self.controller.stage, samples=clock.samples)

    def _metrics(self, values: dict[str, float]) -> None:
        if self.mlflow:
            self.mlflow.metrics(values, self.clock.step)

    def _due(self, every: int) -> bool:
        return self.clock.step % every == 0 or self.clock.step == self.recipe.train.max_steps

    def _advance_wall(self) -> None:
        now = time.monotonic()
        self.clock.wall_s += now - self._tick
        self._tick = now

    def _non_finite(self, sums: torch.Tensor) -> str:
        return ", ".join(name for name, row in zip(self.datasets, sums, strict=True) if not torch.isfinite(row).all())

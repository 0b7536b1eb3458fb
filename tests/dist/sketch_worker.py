"""Runs on every rank: the sketches that real ZeRO-3 training takes, against DeepSpeed's own averaged gradient.

Prints, from rank 0, one JSON line of numbers for the test to judge, and writes the mixed window's sums beside it.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepspeed.utils import safe_get_full_grad, safe_get_full_optimizer_state

from pipeline import engine as engine_room
from pipeline.cli.errors import run_guarded
from pipeline.cli.session import Data, Session
from pipeline.config import load_recipe
from pipeline.models.load import trainable_parameters
from pipeline.runlog import RunConsole
from pipeline.schedule import StageController, build_plan
from pipeline.sketch.accumulator import SketchWindow
from pipeline.sketch.hooks import GradientSketcher, default_group_of
from pipeline.sketch.partition import PartitionSketcher
from pipeline.sketch.recorder import PartitionRecorder, SketchRecorder
from pipeline.sketch.reference import sketch as reference_sketch
from pipeline.sketch.spec import SketchSpec

STEPS = 3
K = 1024


class Recorders:
    """Several recorders of the same training run."""

    def __init__(self, *recorders: Any) -> None:
        self.recorders = recorders

    @contextmanager
    def micro_batch(self, batch, tokens: int, scale: float):
        with ExitStack() as stack:
            for each in self.recorders:
                stack.enter_context(each.micro_batch(batch, tokens, scale))
            yield

    def reduced(self) -> None:
        for each in self.recorders:
            each.reduced()

    def end_of_step(self, step: int) -> None:
        for each in self.recorders:
            each.end_of_step(step)


class Exact:
    """Means over steps of the gathered gradient's reference sketch: as it is, over Adam's denominator, its sign."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.sums = {kind: torch.zeros(K, dtype=torch.float64) for kind in ("raw", "adam", "sign_of_step")}
        self.counts = dict.fromkeys(self.sums, 0)
        self.steps = 0

    @contextmanager
    def micro_batch(self, batch, tokens: int, scale: float):
        yield

    def reduced(self) -> None:
        """Note the step's exact gradient, as it is, as signs, and divided by Adam's denominators."""
        optimizer = self.session.recipe.train.optimizer
        for name, parameter in trainable_parameters(self.session.engine.module).items():
            grad = safe_get_full_grad(parameter)
            values = {"raw": grad, "sign_of_step": grad.sign()}
            if self.steps:
                second = safe_get_full_optimizer_state(parameter, "exp_avg_sq")
                corrected = second / (1 - optimizer.betas[1] ** self.steps)
                quotient = grad / (corrected.sqrt() + optimizer.eps)
                values["adam"] = torch.where(second > 0, quotient, 0.0)  # LoRA's A has no gradient in the first step
            for kind, each in values.items():
                self.sums[kind] += reference_sketch(each, SketchSpec(K, 0).seed_of(name), K)
        self.counts = {kind: n + (kind != "adam" or self.steps > 0) for kind, n in self.counts.items()}
        self.steps += 1

    def end_of_step(self, step: int) -> None:
        return None

    def mean(self, kind: str) -> torch.Tensor:
        return self.sums[kind] / self.counts[kind]


def main() -> None:
    recipe_file, folder = sys.argv[-2], Path(sys.argv[-1])
    recipe = load_recipe(recipe_file)
    session = Session(recipe, Data(recipe), folder)
    numbers = {"one_dataset": one_dataset(session), "mixed": mixed(session, folder), "probe": probe(session)}
    if session.comm.rank == 0:
        print("NUMBERS " + json.dumps(numbers), flush=True)
    engine_room.shutdown(session.comm)


def train(session: Session, datasets: list[str], recorder: Recorders) -> None:
    """`STEPS` steps of the real loop on a uniform mixture of `datasets`."""
    recipe, data = session.recipe, session.data
    trainer = engine_room.Trainer(
        recipe=recipe,
        engine=session.engine,
        loader=session.train_loader({name: float(name in datasets) for name in data.datasets}, seed=0),
        controller=StageController(build_plan(recipe, data.sizes, data.domains), recipe),
        evaluate=lambda: {},
        datasets=data.datasets,
        comm=session.comm,
        events=session.events,
        console=RunConsole(session.comm.rank, STEPS, "test"),
        recorder=recorder,
    )
    trainer.warm_up(STEPS)


def hook_recorder(session: Session, exports: list, **options: Any) -> SketchRecorder:
    """A recorder by hooks whose windows' exports are appended to `exports`."""
    sketcher = GradientSketcher(session.engine.module.named_parameters(), SketchSpec(K, 0))
    return SketchRecorder(
        sketcher,
        session.data.datasets,
        session.comm,
        window_steps=STEPS,
        summarise=lambda export, _: exports.append(export) or {},
        **options,
    )


def partition_recorder(session: Session, gradient: str, exports: list) -> PartitionRecorder:
    """A recorder of reduced slices whose windows' exports are appended to `exports`."""
    spec = SketchSpec(K, 0, gradient=gradient)
    return PartitionRecorder(
        PartitionSketcher(session.engine.module.named_parameters(), spec, default_group_of("kind")),
        session.data.datasets,
        session.comm,
        partitions=lambda: engine_room.gradient_partitions(session.engine, adam=gradient == "adam"),
        window_steps=STEPS,
        summarise=lambda export, _: exports.append(export) or {},
    )


def one_dataset(session: Session) -> dict[str, Any]:
    """Training on one dataset: hook windows and partition windows hold the sketch of the averaged gradient."""
    name, kinds = session.data.datasets[0], ("raw", "adam", "sign_of_step")
    exports: dict[str, list] = {kind: [] for kind in ("hook", *kinds)}
    hooks, exact = hook_recorder(session, exports["hook"]), Exact(session)
    train(session, [name], Recorders(hooks, *(partition_recorder(session, k, exports[k]) for k in kinds), exact))
    hooks.sketcher.close()
    means = {kind: mean_of(each[0], 0) for kind, each in exports.items()}
    return {
        "counts": {kind: int(each[0]["count"][0]) for kind, each in exports.items()},
        "norm": float(exact.mean("raw").norm()),
        "hook": relative(means["hook"], exact.mean("raw")),
        "partition_to_hook": relative(means["raw"], means["hook"]),
        **{kind: relative(means[kind], exact.mean(kind)) for kind in kinds},
    }


def mixed(session: Session, folder: Path) -> dict[str, Any]:
    """Training on all datasets: hooks tell them apart; partition mode skips such steps."""
    exports: list = []
    second = GradientSketcher(session.engine.module.named_parameters(), SketchSpec(K, 1))
    hooks = hook_recorder(session, exports, weigh_by_tokens=True, second=second, second_every=2)
    partition = partition_recorder(session, "raw", [])
    skipped: list = []
    end_of_step = partition.end_of_step
    partition.end_of_step = lambda step: skipped.append(end_of_step(step))
    train(session, session.data.datasets, Recorders(hooks, partition))
    for each in (hooks.sketcher, second):
        each.close()
    if session.comm.rank == 0:
        arrays = {key: value for key, value in exports[0].items() if isinstance(value, np.ndarray)}
        np.savez(folder / "window.npz", **arrays)
    return {"window": skipped[-1]}


def probe(session: Session) -> dict[str, Any]:
    """A probe of known micro-batches must change no parameter and agree with the training hooks on the same data."""
    name = session.data.datasets[0]
    loader = session.train_loader({each: float(each == name) for each in session.data.datasets}, seed=1)
    sketcher = GradientSketcher(session.engine.module.named_parameters(), SketchSpec(K, 0))
    window = SketchWindow([name], sketcher.groups, sketcher.spec)
    position = session.comm.rank

    @contextmanager
    def record(batch, tokens: int):
        nonlocal position
        with sketcher.micro_batch():
            yield
        window.add(name, sketcher.take(), tokens, key=position)
        position += session.comm.world_size

    state, before = loader.state_dict(), partitions(session)
    backwards = engine_room.probe_gradients(session.engine, loader.next_step(), record)
    after = partitions(session)
    probed = window.all_reduce(session.comm).export()
    sketcher.close()
    loader.load_state_dict(state)
    exports: list = []
    hooks, exact = hook_recorder(session, exports), Exact(session)
    trainer_step(session, loader, Recorders(hooks, exact))
    hooks.end_of_step(STEPS)
    return {
        "backwards": backwards * session.comm.world_size,
        "parameters_changed": sum(not torch.equal(x, y) for x, y in zip(before, after, strict=True)),
        "against_hooks": relative(mean_of(probed, 0), mean_of(exports[0], 0)),
        "against_exact": relative(mean_of(probed, 0), exact.mean("raw")),
    }


def trainer_step(session: Session, loader, recorder: Recorders) -> None:
    """One step of the loop from a loader that is already under way."""
    from pipeline.models.loss import answer_loss

    batches = loader.next_step()
    for batch in batches:
        inputs = dict(batch.inputs)
        labels = inputs.pop("labels")
        loss = answer_loss(session.engine(**inputs).logits, labels)
        with recorder.micro_batch(batch, loss.tokens, scale=len(batches)):
            session.engine.backward(loss.mean)
        if batch is batches[-1]:
            recorder.reduced()
        session.engine.step()


def mean_of(export: dict[str, Any], dataset: int) -> torch.Tensor:
    return torch.from_numpy(export["sum"][dataset] / export["weight"][dataset])


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def partitions(session: Session) -> list[torch.Tensor]:
    """This rank's shards of all trainable parameters."""
    return [parameter.ds_tensor.clone() for parameter in trainable_parameters(session.engine.module).values()]


if __name__ == "__main__":
    run_guarded(main)

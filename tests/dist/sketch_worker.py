"""Runs on every rank: sketches taken by hooks in ZeRO-3 training against sketches of the exact averaged gradient.

Prints, from rank 0, one JSON line of numbers for the test to judge.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from deepspeed.utils import safe_get_full_grad

from pipeline import engine as engine_room
from pipeline.cli.errors import run_guarded
from pipeline.cli.session import Data, Session
from pipeline.config import load_recipe
from pipeline.models.load import trainable_parameters
from pipeline.models.loss import answer_loss
from pipeline.sketch.accumulator import SketchWindow
from pipeline.sketch.reference import sketch as reference_sketch
from pipeline.sketch.spec import SketchSpec


def main() -> None:
    recipe_file, folder = sys.argv[-2], Path(sys.argv[-1])
    recipe = load_recipe(recipe_file)
    session = Session(recipe, Data(recipe), folder)
    sketcher = session.sketcher()
    dataset = session.data.datasets[0]
    weights = {name: float(name == dataset) for name in session.data.datasets}
    loader = session.train_loader(weights, seed=0)
    numbers: dict[str, object] = {"steps": []}
    for _ in range(3):
        hooked, exact = one_step(session, sketcher, loader, dataset)
        if session.comm.rank == 0:
            difference = float((hooked - exact).norm() / exact.norm())
            numbers["steps"].append({"relative_difference": difference, "norm": float(exact.norm())})
    numbers["probe"] = probe_numbers(session, sketcher, loader, dataset)
    if session.comm.rank == 0:
        print("NUMBERS " + json.dumps(numbers), flush=True)
    engine_room.shutdown(session.comm)


def one_step(session: Session, sketcher, loader, dataset: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimizer step of micro-batches of one dataset: (mean of hook sketches, sketch of the averaged gradient)."""
    window = SketchWindow([dataset], sketcher.groups, sketcher.spec)
    batches = loader.next_step()
    exact = None
    for number, batch in enumerate(batches):
        inputs = dict(batch.inputs)
        labels = inputs.pop("labels")
        loss = answer_loss(session.engine(**inputs).logits, labels)
        with sketcher.micro_batch(scale=len(batches)):
            session.engine.backward(loss.mean)
        window.add(dataset, sketcher.take(), loss.tokens, key=number * session.comm.world_size + session.comm.rank)
        if number == len(batches) - 1:
            exact = sketch_of_averaged_gradient(session.engine.module, sketcher.spec)
        session.engine.step()
    total = window.all_reduce(session.comm)
    return (total.sum[0].sum(0) / total.count[0]).double(), exact


def sketch_of_averaged_gradient(module: torch.nn.Module, spec: SketchSpec) -> torch.Tensor:
    """DeepSpeed's own reduced and averaged gradient, gathered whole, through the slow reference; a collective."""
    total = torch.zeros(spec.k, dtype=torch.float64)
    for name, parameter in trainable_parameters(module).items():
        total += reference_sketch(safe_get_full_grad(parameter), spec.seed_of(name), spec.k).double()
    return total


def probe_numbers(session: Session, sketcher, loader, dataset: str) -> dict[str, object]:
    """A probe of known micro-batches must change no parameter and agree with the training hooks on the same data."""
    state = loader.state_dict()
    batches = loader.next_step()
    before = partitions(session)
    window = SketchWindow([dataset], sketcher.groups, sketcher.spec)
    position = session.comm.rank

    @contextmanager
    def record(batch, tokens: int):
        nonlocal position
        with sketcher.micro_batch():
            yield
        window.add(dataset, sketcher.take(), tokens, key=position)
        position += session.comm.world_size

    backwards = engine_room.probe_gradients(session.engine, batches, record)
    after = partitions(session)
    probed = window.all_reduce(session.comm)
    loader.load_state_dict(state)
    hooked, exact = one_step(session, sketcher, loader, dataset)
    mean = (probed.sum[0].sum(0) / probed.count[0]).double()
    return {
        "backwards": backwards,
        "parameters_changed": sum(not torch.equal(x, y) for x, y in zip(before, after, strict=True)),
        "against_hooks": float((mean - hooked).norm() / hooked.norm()),
        "against_exact": float((mean - exact).norm() / exact.norm()),
    }


def partitions(session: Session) -> list[torch.Tensor]:
    """This rank's shards of all trainable parameters."""
    return [parameter.ds_tensor.clone() for parameter in trainable_parameters(session.engine.module).values()]


if __name__ == "__main__":
    run_guarded(main)

"""Runs on every rank: a probe of preconditioned gradients; rank 0 writes its statistics.

Alone it also writes what plain torch makes of the same recipe: a copy of the model trained by torch's own AdamW and
clipping, then every probed micro-batch's whole gradient divided by the root of that optimizer's second moments.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from pipeline import engine as engine_room
from pipeline.affinity.payload import dump_stats
from pipeline.atomic import write_atomic
from pipeline.cli.errors import run_guarded
from pipeline.cli.gradients import take_gradients
from pipeline.cli.probe import probe_recipe
from pipeline.cli.session import EVAL_SEED, Data, Session
from pipeline.config import load_recipe
from pipeline.data.batches import chosen_batches
from pipeline.engine.optimizers.build import parameter_groups
from pipeline.models.load import load_model, trainable_parameters
from pipeline.models.loss import answer_loss
from pipeline.schedule import build_plan
from pipeline.sketch.reference import sketch as reference_sketch
from pipeline.sketch.spec import SketchSpec
from pipeline.types import MicroBatch


def main() -> None:
    recipe, folder = probe_recipe(load_recipe(sys.argv[-2])), Path(sys.argv[-1])
    session = Session(recipe, Data(recipe), folder)
    stats = take_gradients(session, "test")
    if session.comm.rank == 0:
        write_atomic(folder / "stats.safetensors", dump_stats(stats))
    if session.comm.world_size == 1:
        np.savez(folder / "reference.npz", **reference(session))
    engine_room.shutdown(session.comm)


def reference(session: Session) -> dict[str, np.ndarray]:
    """`mean` [D, P] preconditioned gradients and `sketch` [D, K], their reference sketches."""
    recipe = session.recipe
    torch.manual_seed(recipe.train.seed)
    model = load_model(recipe.model)
    model.train()
    parameters = trainable_parameters(model)
    optimizer = trained(session, model)
    spec = SketchSpec(recipe.sketch.k, recipe.sketch.seed)
    means, sketches = [], []
    for name in session.data.datasets:
        mean = mean_quotients(session, model, optimizer, name)
        means.append(torch.cat([mean[each].flatten() for each in parameters]))
        sketches.append(sum(reference_sketch(mean[each], spec.seed_of(each), spec.k) for each in parameters))
    return {"mean": torch.stack(means).numpy(), "sketch": torch.stack(sketches).numpy()}


def trained(session: Session, model: torch.nn.Module) -> torch.optim.AdamW:
    """The probe's warm-up in plain torch, at a constant rate."""
    config = session.recipe.train.optimizer
    parameters = trainable_parameters(model)
    optimizer = torch.optim.AdamW(
        parameter_groups(parameters, config.weight_decay), lr=config.lr, betas=config.betas, eps=config.eps
    )
    plan = build_plan(session.recipe, session.data.sizes, session.data.domains)
    loader = session.train_loader(dict(plan.stages[0].weights), session.recipe.train.seed)
    for _ in range(session.recipe.probe.warmup_steps):
        batches = loader.next_step()
        optimizer.zero_grad()
        for batch in batches:
            (backward_loss(model, batch).mean / len(batches)).backward()
        clip_grad_norm_(parameters.values(), config.clip_norm)
        optimizer.step()
    return optimizer


def mean_quotients(
    session: Session, model: torch.nn.Module, optimizer: torch.optim.AdamW, dataset: str
) -> dict[str, torch.Tensor]:
    """Parameter -> token-weighted mean over the dataset's probed micro-batches of gradient / (sqrt(v_hat) + eps)."""
    probe, config = session.recipe.probe, session.recipe.train.optimizer
    parameters = trainable_parameters(model)
    sums = {name: torch.zeros_like(each) for name, each in parameters.items()}
    tokens = 0
    chosen = {dataset: range(probe.batches_per_dataset)}
    batches = chosen_batches(
        session.data.index, session.encode, "train", chosen, probe.micro_batch, 0, 1, EVAL_SEED,
        on_bad=session.report_bad,
    )  # fmt: skip
    for batch in batches:
        optimizer.zero_grad()
        loss = backward_loss(model, batch)
        loss.mean.backward()
        tokens += loss.tokens
        for name, parameter in parameters.items():
            state = optimizer.state[parameter]
            corrected = state["exp_avg_sq"] / (1 - config.betas[1] ** float(state["step"]))
            sums[name] += loss.tokens * parameter.grad / (corrected.sqrt() + config.eps)
    return {name: each / tokens for name, each in sums.items()}


def backward_loss(model: torch.nn.Module, batch: MicroBatch):
    inputs = dict(batch.inputs)
    labels = inputs.pop("labels")
    return answer_loss(model(**inputs).logits, labels)


if __name__ == "__main__":
    run_guarded(main)

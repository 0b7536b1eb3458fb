"""Runs on every rank: each optimizer and strategy on ZeRO-3's slices, against plain torch on whole parameters.

The reference trains a copy of the model on every rank with the micro-batches of all ranks, the library's own optimizer
and torch's own clipping. Prints, from rank 0, one JSON line of numbers for the test to judge.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel

from pipeline import engine as engine_room
from pipeline.cli.errors import run_guarded
from pipeline.config import Recipe, parse_recipe
from pipeline.dist import Comm
from pipeline.engine.optimizers.build import parameter_groups
from pipeline.engine.optimizers.registry import OPTIMIZERS
from pipeline.engine.setup import set_learning_rate
from pipeline.engine.strategies import Strategies
from pipeline.errors import ConfigError
from pipeline.models.loss import AnswerTokens, answer_loss, score_answers
from pipeline.types import MicroBatch
from tests.dist.strategies_model import VOCAB, TinyModel

STEPS, GAS, LENGTH = 6, 2, 9
RATES = [0.02, 0.03, 0.03, 0.02, 0.01, 0.005]
OPTIONS: dict[str, dict[str, Any]] = {
    "adafactor": {"beta1": 0.9},
    "sophia": {"update_period": 3, "p": 0.05},
    "lamb": {"pre_norm": False},
    "dog": {"reps_rel": 1e-3},
}


def new_model() -> TinyModel:
    torch.manual_seed(0)
    return TinyModel()


def micro_batches(step: int, rank: int) -> list[MicroBatch]:
    """Tokens that are a function of step, rank and place; answers of differing length."""
    found = []
    for place in range(GAS):
        generator = torch.Generator().manual_seed(step * 100 + rank * 10 + place)
        ids = torch.randint(VOCAB, (3, LENGTH), generator=generator)
        labels = ids.clone()
        labels[:, : 2 + place + rank] = -100
        found.append(MicroBatch("tokens", ("a", "b", "c"), {"input_ids": ids, "labels": labels}, 0.0))
    return found


def recipe_of(
    optimizer: dict[str, Any], dtype: str = "fp32", deepspeed: str = "cpu_zero3.json", **train: Any
) -> Recipe:
    tree = {
        "arm": "x",
        "out": "o",
        "model": {"path": "none", "dtype": dtype},
        "data": {"shards": "none"},
        "engine": {"deepspeed": deepspeed},
        "sketch": {"enabled": False},
        "train": {
            "max_steps": STEPS,
            "global_batch": 3 * GAS * 2,
            "micro_batch": 3,
            "optimizer": optimizer,
            "checkpoint_every": 2,
            "lr_schedule": {"kind": "constant"},
            **train,
        },
    }
    return parse_recipe(tree, source="test")


class Run:
    """An engine with its strategies, stepped as the trainer does."""

    def __init__(self, recipe: Recipe, comm: Comm) -> None:
        self.recipe, self.comm = recipe, comm
        model = new_model()
        if recipe.model.dtype == "bf16":
            model = model.bfloat16()
        self.engine = engine_room.build_engine(recipe, model, comm.world_size)
        self.strategies = Strategies(recipe, self.engine, comm)
        self.watched: list[dict[str, float]] = []

    def train(self, first: int = 1, last: int = STEPS, after: Callable[[int], None] | None = None) -> Run:
        for step in range(first, last + 1):
            batches = micro_batches(step, self.comm.rank)
            set_learning_rate(self.engine, self.rate(step))
            self.strategies.before_step(step, batches)
            for batch in batches:
                self.engine.backward(self.loss(batch))
                if batch is batches[-1]:
                    self.watched.append(self.strategies.reduced())
                self.engine.step()
            self.strategies.after_step(step)
            if after:
                after(step)
        return self

    def rate(self, step: int) -> float:
        return self.recipe.train.optimizer.lr * (RATES[step - 1] / RATES[0])

    def loss(self, batch: MicroBatch) -> torch.Tensor:
        logits = self.engine(batch.inputs["input_ids"]).logits
        return answer_loss(logits, batch.inputs["labels"], self.recipe.train.label_smoothing).mean

    def weights(self) -> dict[str, torch.Tensor]:
        """Whole fp32 weights of the optimizer; a collective."""
        named = self.engine.module.named_parameters()
        return {name: safe_get_full_fp32_param(p).clone() for name, p in named if p.requires_grad}

    def outputs(self) -> torch.Tensor:
        """What the model computes with the weights that are in it."""
        with torch.no_grad():
            return self.engine(torch.arange(VOCAB)[None]).logits.float().clone()

    def close(self) -> None:
        self.engine.destroy()


class Reference:
    """The same training in plain torch: every rank's micro-batches on every rank, whole parameters, no DeepSpeed."""

    def __init__(self, recipe: Recipe, world_size: int) -> None:
        self.recipe, self.world_size = recipe, world_size
        self.model = new_model()
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = self._optimizer()
        self.norms: list[float] = []

    def _optimizer(self) -> Any:
        config = self.recipe.train.optimizer
        kind = OPTIMIZERS[config.name].load()
        keys = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
        arguments = {key: value for key, value in keys.items() if value is not None} | config.options
        groups = parameter_groups(self.parameters, config.weight_decay)
        if config.name == "adam_mini":  # its own heads fit: width 6, 2 heads of 3 rows
            optimizer = kind(self.model, num_embeds=6, num_heads=2, weight_decay=config.weight_decay, **arguments)
            for group in optimizer.param_groups:
                group["weight_decay"] = config.weight_decay if self.parameters[group["name"]].ndim >= 2 else 0.0
            return optimizer
        if config.name == "dog":
            return kind(list(self.parameters.values()), **arguments)
        if config.name == "adafactor":
            arguments |= {"relative_step": False, "scale_parameter": False}
        if config.name == "sophia":
            arguments["update_period"] = 10**9  # estimates come from outside
        optimizer = kind(groups, **arguments)
        if config.name == "schedule_free":
            optimizer.train()
        return optimizer

    def train(self, after: Callable[[int], None] | None = None) -> Reference:
        train = self.recipe.train
        for step in range(1, STEPS + 1):
            for group in self.optimizer.param_groups:
                group["lr"] = train.optimizer.lr * (RATES[step - 1] / RATES[0])
            hessian = self._hessian(step)
            self.optimizer.zero_grad()
            batches = [batch for rank in range(self.world_size) for batch in micro_batches(step, rank)]
            for batch in batches:
                self._loss(batch).mean.div(len(batches)).backward()
            limit = train.optimizer.clip_norm or float("inf")
            if train.optimizer.autoclip:
                norm = float(torch.stack([p.grad.square().sum() for p in self.parameters.values()]).sum().sqrt())
                self.norms.append(norm)
                limit = min(limit, float(np.percentile(self.norms, train.optimizer.autoclip.percentile)))
            clip_grad_norm_(self.parameters.values(), limit)
            if hessian is None:
                self.optimizer.step()
            else:
                self.optimizer.step(hessian=hessian)
            if after:
                after(step)
        return self

    def _loss(self, batch: MicroBatch) -> Any:
        logits = self.model(batch.inputs["input_ids"]).logits
        return answer_loss(logits, batch.inputs["labels"], self.recipe.train.label_smoothing)

    def _hessian(self, step: int) -> list[torch.Tensor] | None:
        """Sophia's estimate, written out: n g*g of the mean loss on labels drawn as each rank draws its own."""
        if self.recipe.train.optimizer.name != "sophia" or (step - 1) % OPTIONS["sophia"]["update_period"]:
            return None
        from pipeline.engine.optimizers.sophia import HessianEstimate, sampled

        self.optimizer.zero_grad()
        count, inverse = self.world_size * GAS, 0.0
        for rank in range(self.world_size):
            draws = HessianEstimate(None, None, None, None, SimpleNamespace(rank=rank), self.recipe.train.seed)
            for place, batch in enumerate(micro_batches(step, rank)):
                tokens = AnswerTokens.of(batch.inputs["labels"])
                logits = self.model(batch.inputs["input_ids"]).logits[tokens.rows, tokens.places]
                loss = score_answers(logits, sampled(logits, tokens, draws._generator(step, place)))
                loss.mean.div(count).backward()
                inverse += 1 / loss.tokens
        in_order = [p for group in self.optimizer.param_groups for p in group["params"]]
        return [p.grad.square() * (count**2 / inverse) for p in in_order]

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.parameters.items()}


def apart(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference over all weights, as a share of how far training has moved any of them."""
    start = {name: p.detach() for name, p in new_model().named_parameters()}
    moved = max(float((theirs[name] - start[name]).abs().max()) for name in theirs)
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) / moved


def settings(name: str) -> dict[str, Any]:
    lr = {} if name == "dog" else {"lr": RATES[0] / 10 if name in ("lion", "sophia") else RATES[0], "weight_decay": 0.1}
    return {"name": name, "options": OPTIONS.get(name, {}), "clip_norm": 0.5, **lr}


def optimizer_numbers(name: str, folder: Path, comm: Comm) -> dict[str, Any]:
    """Against the unsharded optimizer, and resumed from a checkpoint in the middle against uninterrupted."""
    recipe = recipe_of(settings(name))
    reference = Reference(recipe, comm.world_size).train()
    store = engine_room.CheckpointStore(folder / name, comm, {"name": name}, keep=2)
    whole = Run(recipe, comm)

    def save(step: int) -> None:
        if step == 3:
            store.save(whole.engine, step, {}, {"strategies": whole.strategies.state_dict()})

    uninterrupted = whole.train(after=save).weights()
    judged = None
    if name == "schedule_free":
        reference.optimizer.eval()
        with whole.strategies.judged_weights():
            judged = apart(whole.weights(), reference.weights())
    whole.close()
    again = Run(recipe, comm)
    saved = store.load(again.engine, store.latest())
    again.strategies.load_state_dict(saved.mine("strategies", again.strategies.redealt))
    resumed = again.train(first=4).weights()
    again.close()
    return {
        "to_reference": apart(uninterrupted, reference.weights()) if judged is None else judged,
        "resumed_differs": sum(int((resumed[key] != uninterrupted[key]).sum()) for key in resumed),
    }


def deepspeed_json(folder: Path, comm: Comm, **zero: Any) -> str:
    tree = {"zero_optimization": {"stage": 3, **zero}, "steps_per_print": 10**6}
    file = folder / f"deepspeed-{comm.rank}.json"
    file.write_text(json.dumps(tree))
    return str(file)


def in_other_pieces(name: str, folder: Path, comm: Comm, **zero: Any) -> dict[str, float]:
    """The optimizer again where DeepSpeed cuts or places its slices in another way."""
    recipe = recipe_of(settings(name), deepspeed=deepspeed_json(folder, comm, **zero))
    run = Run(recipe, comm)
    found = {
        "to_reference": apart(run.train().weights(), Reference(recipe, comm.world_size).train().weights()),
        "pieces": len(run.engine.optimizer.fp32_partitioned_groups_flat),
    }
    run.close()
    return found


def refusal(name: str, folder: Path, comm: Comm, **zero: Any) -> str:
    try:
        Run(recipe_of(settings(name), deepspeed=deepspeed_json(folder, comm, **zero)), comm)
    except ConfigError as error:
        return str(error)
    return ""


def average_numbers(averaging: dict[str, Any], folder: Path, comm: Comm) -> dict[str, Any]:
    """Averaged weights, AutoClip and label smoothing against plain torch; putting them in and out; a resume."""
    optimizer = {**settings("adamw"), "clip_norm": None, "autoclip": {"percentile": 40}}
    zero = deepspeed_json(folder, comm, stage3_param_persistence_threshold=0)
    recipe = recipe_of(optimizer, deepspeed=zero, averaging=averaging, label_smoothing=0.2)
    reference = Reference(recipe, comm.world_size)
    averaged = ReferenceAverage(recipe, reference.model)
    reference.train(after=averaged.after_step)
    store = engine_room.CheckpointStore(folder / averaging["kind"], comm, {}, keep=2)
    run = Run(recipe, comm)

    def save(step: int) -> None:
        if step == 4:
            store.save(run.engine, step, {}, {"strategies": run.strategies.state_dict()})

    run.train(after=save)
    trained, before = run.weights(), run.outputs()
    with run.strategies.judged_weights():
        judged, during = run.weights(), run.outputs()
    expected = averaged.weights()
    numbers = {
        "trained": apart(trained, reference.weights()),
        "averaged": apart(judged, expected),
        "average_to_trained": apart(judged, trained),
        "outputs": float((during - averaged.outputs(expected)).abs().max()),
        "left_differs": differing(run.weights(), trained) + int((run.outputs() != before).sum()),
        "clip_limits": [watched["clip_limit"] for watched in run.watched],
        "norms": reference.norms,
    }
    run.close()
    again = Run(recipe, comm)
    saved = store.load(again.engine, store.latest())
    again.strategies.load_state_dict(saved.mine("strategies", again.strategies.redealt))
    again.train(first=5)
    kept = again.strategies.copy_judged()
    again.strategies.keep_judged(None)
    numbers["resumed_differs"] = differing(again.weights(), judged)
    numbers["limits_differ"] = [watched["clip_limit"] for watched in again.watched] != numbers["clip_limits"][4:]
    again.strategies.keep_judged([torch.zeros_like(flat) for flat in kept])
    numbers["zeroed"] = float(again.outputs().abs().max())
    again.strategies.keep_judged(kept)
    numbers["put_back_differs"] = int((again.outputs() != during).sum())
    again.close()
    return numbers


class ReferenceAverage:
    """torch's own moving average, or snapshots weighed by hand."""

    def __init__(self, recipe: Recipe, model: TinyModel) -> None:
        self.config, self.model = recipe.train.averaging, model
        decay = self.config.decay

        def moving(average: torch.Tensor, value: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
            keep = min(decay, (1 + float(updates)) / (10 + float(updates)))
            return keep * average + (1 - keep) * value

        self.moving = AveragedModel(model, avg_fn=moving)
        self.snapshots: list[dict[str, torch.Tensor]] = []

    def after_step(self, step: int) -> None:
        self.moving.update_parameters(self.model)
        if step % 2 == 0:  # checkpoint_every
            self.snapshots.append({name: p.detach().clone() for name, p in self.model.named_parameters()})

    def weights(self) -> dict[str, torch.Tensor]:
        learning = [name for name, p in self.model.named_parameters() if p.requires_grad]
        if self.config.kind == "ema":
            moved = dict(self.moving.module.named_parameters())
            return {name: moved[name].detach() for name in learning}
        shares = (0.25, 0.5, 0.25)  # 1 - cos(pi/3), cos(pi/3) - cos(2 pi/3), cos(2 pi/3) - cos(pi), halved
        return {
            name: sum(share * each[name] for share, each in zip(shares, self.snapshots, strict=True))
            for name in learning
        }

    def outputs(self, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        model = new_model()
        model.load_state_dict(weights, strict=False)
        with torch.no_grad():
            return model(torch.arange(VOCAB)[None]).logits


def bf16_numbers(comm: Comm) -> dict[str, Any]:
    """The model computes in bf16 with the rounded average, and goes on with what it had."""
    run = Run(recipe_of(settings("lamb"), dtype="bf16", averaging={"kind": "ema", "decay": 0.5}), comm).train()
    trained, before = run.weights(), run.outputs()
    with run.strategies.judged_weights():
        judged, during = run.weights(), run.outputs()
    model = new_model().bfloat16()
    model.load_state_dict({name: value.bfloat16() for name, value in judged.items()}, strict=False)
    with torch.no_grad():
        expected = model(torch.arange(VOCAB)[None]).logits.float()
    numbers = {
        "moved": int((during != before).sum()),
        "outputs_differ": int((during != expected).sum()),
        "left_differs": differing(run.weights(), trained) + int((run.outputs() != before).sum()),
    }
    run.close()
    return numbers


def grades_numbers(folder: Path, comm: Comm) -> dict[str, Any]:
    """Matrices that stop stay to the bit, under decay and momentum, and a resumed run stops the same ones."""
    recipe = recipe_of(settings("adamw"), grades={"threshold": 0.97, "grace_share": 0.0, "window": 1})
    store = engine_room.CheckpointStore(folder / "grades", comm, {}, keep=2)
    run, history, stopped = Run(recipe, comm), [], []

    def note(step: int) -> None:
        history.append(run.weights())
        stopped.append([piece.name for piece in run.strategies._watchers["grades"].stopped])
        if step == 4:
            store.save(run.engine, step, {}, {"strategies": run.strategies.state_dict()})

    run.train(after=note)
    # Stopped at step s: the value after s is that after s - 1, and so on to the end.
    since = {name: next(i for i, names in enumerate(stopped) if name in names) for name in stopped[-1]}
    moved = [name for name, first in since.items() if bool((history[-1][name] != history[first - 1][name]).any())]
    going = [name for name in history[0] if name not in stopped[-1]]
    run.close()
    again = Run(recipe, comm)
    saved = store.load(again.engine, store.latest())
    again.strategies.load_state_dict(saved.mine("strategies", again.strategies.redealt))
    again.train(first=5)
    numbers = {
        "stopped": stopped,
        "same_on_ranks": comm.gather_objects(stopped) == [stopped] * comm.world_size,
        "moved_after_stop": moved,
        "going_that_did_not_move": [name for name in going if bool((history[-1][name] == history[-2][name]).all())],
        "resumed_differs": differing(again.weights(), history[-1]),
    }
    again.close()
    return numbers


def differing(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> int:
    return sum(int((ours[name] != theirs[name]).sum()) for name in theirs)


def main() -> None:
    """Run everything in this one launch; rank 0 prints the numbers that the test judges."""
    folder = Path(sys.argv[-1])
    comm = engine_room.init_distributed()
    numbers: dict[str, Any] = {"optimizers": {name: optimizer_numbers(name, folder, comm) for name in OPTIMIZERS}}
    pieces = {"sub_group_size": 60, "stage3_param_persistence_threshold": 0}
    offload = {"offload_optimizer": {"device": "cpu"}}
    numbers |= {
        "pieces": {name: in_other_pieces(name, folder, comm, **pieces) for name in ("lion", "sophia")},
        "offload": {name: in_other_pieces(name, folder, comm, **offload) for name in ("lion", "lamb")},
        "refused": {name: refusal(name, folder, comm, **pieces) for name in ("schedule_free", "dog")},
        "ema": average_numbers({"kind": "ema", "decay": 0.3}, folder, comm),
        "merge": average_numbers({"kind": "merge", "last": 3, "weights": "cosine"}, folder, comm),
        "bf16": bf16_numbers(comm),
        "grades": grades_numbers(folder, comm),
    }
    if comm.rank == 0:
        print("NUMBERS " + json.dumps(numbers), flush=True)
    engine_room.shutdown(comm)


if __name__ == "__main__":
    run_guarded(main)

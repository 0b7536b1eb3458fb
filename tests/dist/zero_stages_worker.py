"""Runs on every rank, see `test_checkpoint_world.py`: one small model under each ZeRO stage, saved and taken up.

zero_stages_worker write FOLDER   train, save, write what every parameter and its optimizer state are; go on
zero_stages_worker read FOLDER    load, compare to the bit, go on, print how far that is from the writers' weights
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

from pipeline import engine as engine_room
from pipeline.cli.errors import run_guarded
from pipeline.config import parse_recipe
from pipeline.dist import Comm
from pipeline.engine.checkpoint import CheckpointStore
from pipeline.engine.setup import set_learning_rate
from pipeline.errors import CheckpointError
from tests.dist.strategies_model import VOCAB, TinyModel

SLOTS, STEPS = 6, 3
CASES = [(0, "adamw"), (1, "adamw"), (2, "adamw"), (2, "lion"), (3, "adamw"), (3, "lion"), (3, "schedule_free")]
# What DeepSpeed can show of the optimizer's state. Below ZeRO-3 only the steps that follow show it.
KEPT = {"3-adamw": ("exp_avg", "exp_avg_sq"), "3-lion": ("exp_avg",), "3-schedule_free": ("z", "exp_avg_sq")}


class Case:
    """An engine under one stage with one optimizer."""

    def __init__(self, folder: Path, comm: Comm, stage: int, optimizer: str) -> None:
        self.comm, self.name = comm, f"{stage}-{optimizer}"
        file = folder / f"stage-{stage}.json"
        if comm.rank == 0:
            file.write_text(json.dumps({"zero_optimization": {"stage": stage}, "steps_per_print": 1_000_000}))
        comm.barrier()
        tree = {
            "arm": "x",
            "out": "o",
            "model": {"path": "none"},
            "data": {"shards": "none"},
            "engine": {"deepspeed": str(file)},
            "sketch": {"enabled": False},
            "train": {
                "max_steps": 9, "global_batch": 2 * SLOTS, "micro_batch": 2, "lr_schedule": {"kind": "constant"},
                "optimizer": {"name": optimizer, "lr": 0.01, "weight_decay": 0.3},
            },
        }  # fmt: skip
        torch.manual_seed(0)
        self.engine = engine_room.build_engine(parse_recipe(tree, source="test"), TinyModel(), comm.world_size)
        self.store = CheckpointStore(folder / self.name, comm, {}, keep=2)

    def train(self, first: int, last: int) -> None:
        """Steps of the same micro-batches, however many ranks share them."""
        for step in range(first, last + 1):
            set_learning_rate(self.engine, 0.01 / step)
            for slot in range(self.comm.rank, SLOTS, self.comm.world_size):
                ids = torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(100 * step + slot))
                logits = self.engine(ids).logits
                loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
                self.engine.backward(loss)
                self.engine.step()

    def state(self) -> dict[str, torch.Tensor]:
        """Whole fp32 weights and moments, and each group's decay; a collective."""
        found = {}
        for name, parameter in self.engine.module.named_parameters():
            if not parameter.requires_grad:
                continue
            if self.engine.zero_optimization_stage() == 0:
                found[name] = parameter.detach().clone()
                continue
            found[name] = safe_get_full_fp32_param(parameter).clone()
            for key in KEPT.get(self.name, ()):
                found[f"{name}/{key}"] = safe_get_full_optimizer_state(parameter, key).clone()
        decays = [group["weight_decay"] for group in self.engine.optimizer.param_groups]
        return {**found, "decays": torch.tensor(decays)}


def write(folder: Path, comm: Comm) -> None:
    for stage, optimizer in CASES:
        case = Case(folder, comm, stage, optimizer)
        case.train(1, STEPS)
        saved = case.state()
        case.store.save(case.engine, STEPS, {}, {})
        case.train(STEPS + 1, STEPS + 2)
        later = case.state()
        if comm.rank == 0:
            torch.save({"saved": saved, "later": later}, folder / f"{case.name}.pt")
        case.engine.destroy()


def read(folder: Path, comm: Comm) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for stage, optimizer in CASES:
        case = Case(folder, comm, stage, optimizer)
        expected = torch.load(folder / f"{case.name}.pt")
        case.store.load(case.engine, case.store.find(STEPS))
        got = case.state()
        same_keys = got.keys() == expected["saved"].keys()
        differing = sum(int((got[key] != value).sum()) for key, value in expected["saved"].items() if key in got)
        case.train(STEPS + 1, STEPS + 2)
        later = case.state()
        off = max(float((later[key] - value).abs().max()) for key, value in expected["later"].items())
        moved = max(float((expected["later"][key] - value).abs().max()) for key, value in expected["saved"].items())
        numbers[case.name] = {"same_keys": same_keys, "differing": differing, "off": off, "moved": moved}
        numbers[case.name]["states"] = len(got)
        case.engine.destroy()
    numbers["refusals"] = refusals(folder, comm)
    return numbers


def refusals(folder: Path, comm: Comm) -> dict[str, str]:
    """What is said when the frozen weights, the trained set or the ZeRO stage are not those of the checkpoint."""
    said = {}

    def attempt(what: str, case: Case, store: CheckpointStore) -> None:
        try:
            store.load(case.engine, store.find(STEPS))
        except CheckpointError as error:
            said[what] = str(error)
        case.engine.destroy()

    store = CheckpointStore(folder / "3-adamw", comm, {}, keep=2)
    case = Case(folder, comm, 3, "adamw")
    frozen = case.engine.module.frozen.weight
    frozen.ds_tensor.data.view(-1)[-1:] += 1e-3 if comm.rank == 0 else 0.0  # one number, on one rank
    attempt("frozen", case, store)
    attempt("stage", Case(folder, comm, 2, "adamw"), store)
    return said


def main() -> None:
    """One rank's part."""
    how, folder = sys.argv[-2], Path(sys.argv[-1])
    comm = engine_room.init_distributed()
    if how == "write":
        write(folder, comm)
    else:
        numbers = read(folder, comm)
        if comm.rank == 0:
            print("NUMBERS " + json.dumps(numbers), flush=True)
    engine_room.shutdown(comm)


if __name__ == "__main__":
    run_guarded(main)

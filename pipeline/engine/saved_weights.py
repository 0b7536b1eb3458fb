"""A checkpoint's weights, read from its files one parameter at a time: no engine, no process group, no GPU.

ZeRO-3 leaves a file for each rank with that rank's slices of the fp32 weights, laid end to end in sub-groups; averages
of them lie in our own files in the same way. So one reader puts all of these together. Files are mapped, not read:
memory holds the parameter that is asked for.
"""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.config import Recipe
from pipeline.engine.averaging import average_of, merged
from pipeline.engine.checkpoint import MARK
from pipeline.engine.redeal import Flats, incomplete, open_saved
from pipeline.engine.shards import Slice
from pipeline.errors import CheckpointError
from pipeline.models.card import Which


@dataclass(frozen=True)
class SavedWeights:
    """The trained weights of one complete checkpoint, as the recipe wants them judged.

    Attributes:
        identity: of the run that wrote it (`CheckpointStore`).
        buffers: what the model saves beside its parameters; the first rank's.
    """

    folder: Path
    which: Which
    identity: Mapping[str, Any]
    buffers: Mapping[str, torch.Tensor]
    _flats: Sequence[Flats]  # of each rank
    _slices: Sequence[Sequence[Slice]]
    _whole: Mapping[str, torch.Tensor]  # where every rank has the whole module, and nothing lies in slices

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name in the engine's module and value of every trained parameter: in fp32 under ZeRO-3, else as computed."""
        yield from self._whole.items()
        yield from whole_parameters(self._flats, self._slices)


def find_checkpoint(run: Path, recipe: Recipe, wanted: str | None = None) -> SavedWeights:
    """The weights of a run that `wanted` names.

    Args:
        wanted: `best`, `last` or a step; None: what the recipe tests, `best` where it keeps the best for that.

    Raises:
        CheckpointError: no complete checkpoint, no such step, or no best one.
    """
    folders = {int(mark.parent.name.partition("-")[2]): mark.parent for mark in run.glob(f"checkpoints/step-*/{MARK}")}
    if not folders:
        raise CheckpointError(
            "this run has no complete checkpoint",
            where={"folder": run / "checkpoints"},
            hint="train it first; a checkpoint is written every train.checkpoint_every steps",
        )
    last = max(folders)
    keep_best = recipe.train.keep_best
    if wanted is None:
        wanted = "best" if keep_best and keep_best.use_for_test else "last"
    step = last
    if wanted == "best":
        step = _best_step(folders[last])
    elif wanted != "last":
        step = int(wanted) if wanted.isdigit() else -1
    if step not in folders:
        raise CheckpointError(
            "this run has no such checkpoint",
            where={"folder": run / "checkpoints"},
            got=wanted,
            expected=f"best, last or one of {', '.join(map(str, sorted(folders)))}",
        )
    return _read(folders[step], recipe, is_best=wanted == "best")


def whole_parameters(flats: Sequence[Flats], slices: Sequence[Sequence[Slice]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of every parameter that lies in slices.

    Args:
        flats: each rank's flat tensors.
        slices: what each rank has in them.

    Raises:
        CheckpointError: the slices are not the whole of a parameter.
    """
    found: dict[str, list[tuple[int, Slice]]] = defaultdict(list)
    for rank, pieces in enumerate(slices):
        for piece in pieces:
            found[piece.name].append((rank, piece))
    for name, parts in found.items():
        in_order = sorted(parts, key=lambda each: each[1].start)
        values = torch.cat([piece.of(flats[rank][piece.flat]) for rank, piece in in_order])
        shape = torch.Size(parts[0][1].shape)
        if len(values) != shape.numel():
            hint = "the checkpoint is damaged; take another with --checkpoint STEP"
            raise incomplete(name, len(values), shape.numel(), hint)
        yield name, values.view(shape)


def _best_step(last: Path) -> int:
    best = json.loads((last / "state.json").read_text()).get("best")
    if not best or best["step"] is None:
        raise CheckpointError(
            "this run kept no best checkpoint",
            where={"folder": last.parent},
            hint="take --checkpoint last, or train with `train.keep_best`",
        )
    return int(best["step"])


def _read(folder: Path, recipe: Recipe, is_best: bool) -> SavedWeights:
    mark = json.loads((folder / MARK).read_text())
    keep_best = recipe.train.keep_best
    best = keep_best.metric if is_best and keep_best else None
    zero, world_size = folder / "zero", int(mark["world_size"])
    shared = zero / "mp_rank_00_model_states.pt"
    if shared.is_file():  # below ZeRO-3, where nothing is averaged either
        content = _load(shared)
        buffers = _buffers(content)
        whole = {name: tensor for name, tensor in content["module"].items() if name not in buffers}
        return SavedWeights(folder, Which(mark["step"], "trained", best), mark["identity"], buffers, (), (), whole)
    saved = open_saved(zero, world_size)
    ours = [_load(folder / f"rank{rank}.pt") for rank in range(world_size)]
    kind, flats = _judged(recipe, saved.optimizers, ours, is_best)
    which = Which(mark["step"], kind, best)
    return SavedWeights(folder, which, mark["identity"], _buffers(saved.model), flats, saved.slices, {})


def _buffers(model: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: model["module"][name] for name in model["buffer_names"]}


def _judged(
    recipe: Recipe, states: list[dict[str, Any]], ours: list[dict[str, Any]], is_best: bool
) -> tuple[str, list[Flats]]:
    """The kind of weights that an evaluation at this checkpoint is of, and each rank's flat tensors of them."""
    train = recipe.train
    trained = [state["fp32_flat_groups"] for state in states]
    average = average_of(train)
    kept = [rank["judged_weights"] for rank in ours] if is_best else []
    if kept and all(flats is not None for flats in kept):
        return average, kept
    if average == "schedule_free":
        return average, [schedule_free_average(state, train.optimizer.betas) for state in states]
    if average == "trained":
        return average, trained
    saved = [rank["strategies"]["average"] for rank in ours]
    averaged = [rank["values"] if average == "ema" else merged(rank["snapshots"], train.averaging) for rank in saved]
    flats = [each for each in averaged if each is not None]
    return (average, flats) if flats else ("trained", trained)


def schedule_free_average(state: dict[str, Any], betas: tuple[float, float] | None) -> Flats:
    """The averaged weights x of the trained ones y and the optimizer's z: y = x + (1 - beta1) (z - x), solved for x."""
    assert betas is not None, "schedule_free has betas"
    inner = state["optimizer_state_dict"]["state"]
    return [
        torch.lerp(flat, inner[number]["z"], 1 - 1 / betas[0]) for number, flat in enumerate(state["fp32_flat_groups"])
    ]


def _load(file: Path) -> dict[str, Any]:
    """A file of tensors and plain values, mapped into memory.

    Raises:
        CheckpointError: it is not there, damaged or holds anything else.
    """
    try:
        content: dict[str, Any] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            "a file of this checkpoint cannot be read",
            where={"file": file},
            got=str(error).splitlines()[0][:200],
            hint="take another checkpoint with --checkpoint STEP",
        ) from None
    return content

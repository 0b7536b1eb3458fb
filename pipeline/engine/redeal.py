"""A checkpoint of one number of ranks as one of another: slices of flat tensors, cut and put together anew.

DeepSpeed's own way, `ds_to_universal`, knows the two moments of Adam and nothing else, gives all groups of parameters
the hyper-parameters of the first one, and writes some files for each parameter. Here every per-element tensor that an
optimizer, an average or a strategy keeps is re-dealt alike, to the bit, and what comes out is an ordinary checkpoint
of the new number of ranks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.dist import Comm
from pipeline.engine.shards import Shards, Slice
from pipeline.errors import CheckpointError

Flats = list[torch.Tensor]
# How DeepSpeed calls a rank's file: zero_pp_rank_3_mp_rank_00_optim_states.pt, bf16_ in front where the model is bf16.
_RANK_FILE = re.compile(r"(?P<before>(?:bf16_)?zero_pp_rank_)(?P<rank>\d+)(?P<after>_mp_rank_00_.*_states\.pt)")
_SHARED_MODEL_FILE = "mp_rank_00_model_states.pt"


class Redeal:
    """From tensors that lie on the saved ranks to those of this rank.

    Args:
        theirs: the slices of every saved rank.
        mine: this rank's slices.
        lengths: of this rank's flat tensors, padding included.
    """

    def __init__(self, theirs: Sequence[Sequence[Slice]], mine: Sequence[Slice], lengths: Sequence[int]) -> None:
        self._mine, self._lengths = mine, lengths
        self._sources: dict[str, list[tuple[int, Slice]]] = defaultdict(list)
        for rank, slices in enumerate(theirs):
            for piece in slices:
                self._sources[piece.name].append((rank, piece))

    def flats(self, saved: Sequence[Sequence[torch.Tensor]]) -> Flats:
        """Flat tensors in this rank's layout; `saved`: those of every saved rank, or none. Padding is zero."""
        if not saved[0]:
            return []
        found = [torch.zeros(length, dtype=saved[0][0].dtype) for length in self._lengths]
        for piece in self._mine:
            target = piece.of(found[piece.flat])
            self._fill(target, piece, lambda rank, source: source.of(saved[rank][source.flat]))
        return found

    def pieces(self, saved: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The same for slices that are kept one by one, without padding, by the parameter's name."""
        found = {}
        for piece in (piece for piece in self._mine if piece.name in saved[0]):
            target = torch.zeros(piece.filled, dtype=saved[0][piece.name].dtype)
            self._fill(target, piece, lambda rank, source: saved[rank][source.name])
            found[piece.name] = target
        return found

    def sources(self, flat: int) -> set[int]:
        """The saved flat tensors that this rank's flat tensor `flat` is made of; they differ with `sub_group_size`."""
        names = {piece.name for piece in self._mine if piece.flat == flat}
        return {source.flat for name in names for _, source in self._sources[name]}

    def _fill(self, target: torch.Tensor, piece: Slice, values: Callable[[int, Slice], torch.Tensor]) -> None:
        """Copy into `target`, the elements of `piece`, what overlaps of each saved slice."""
        done = 0
        for rank, source in self._sources[piece.name]:
            first = max(piece.start, source.start)
            last = min(piece.start + piece.filled, source.start + source.filled)
            if first >= last:
                continue
            part = values(rank, source)[first - source.start : last - source.start]
            target[first - piece.start : last - piece.start].copy_(part)
            done += last - first
        if done != piece.filled:
            hint = "the trained parts of the model must be those of the checkpoint"
            raise incomplete(piece.name, done, piece.filled, hint)


@dataclass(frozen=True)
class SavedRanks:
    """DeepSpeed's files of all ranks that wrote a checkpoint, memory-mapped.

    Attributes:
        model: rank 0's file of the module; what is used of it is the same on every rank.
        optimizers: each rank's optimizer.
        names: of the files of rank 0, (module, optimizer).
    """

    model: dict[str, Any]
    optimizers: list[dict[str, Any]]
    names: tuple[str, str]

    @property
    def slices(self) -> list[list[Slice]]:
        """What each rank holds."""
        shapes = self.model["param_shapes"]
        if int(self.optimizers[0]["zero_stage"]) == 3:
            world = len(self.optimizers)
            return [_slices_of_zero3(shapes, world, rank) for rank in range(world)]
        return _slices_of_mappings(shapes, [each["param_slice_mappings"] for each in self.optimizers])


def open_saved(folder: Path, world_size: int) -> SavedRanks:
    """The files below `folder`, which `world_size` ranks wrote.

    Raises:
        CheckpointError: they are of a form that cannot be re-dealt, and what to do then.
    """
    files = {}
    for file in folder.iterdir():
        match = _RANK_FILE.fullmatch(file.name)
        if match:
            files[int(match["rank"]), "optim" in match["after"]] = file
    model = files.get((0, False), folder / _SHARED_MODEL_FILE)
    optimizers = [files.get((rank, True)) for rank in range(world_size)]
    if not model.is_file() or None in optimizers or (folder / "offloaded_tensors").exists():
        raise _not_redealable(folder, world_size, "its optimizer state is not in one file for each rank")
    states = [_load(file)["optimizer_state_dict"] for file in optimizers if file is not None]
    if "zero_stage" not in states[0]:
        raise _not_redealable(folder, world_size, "it was written without ZeRO's partitioned optimizer")
    return SavedRanks(_load(model), states, (model.name, str(files[0, True].name)))


def layout_of(engine: Any, comm: Comm) -> tuple[list[Slice], list[int], list[int]]:
    """This rank's slices, the lengths of its flat tensors, and the optimizer's group of each; every rank calls it."""
    zero = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        shards = Shards(engine)
        lengths = [flat.numel() for flat in shards.flats]
        return shards.slices, lengths, [zero.sub_group_to_group_id[index] for index in range(len(lengths))]
    mappings = comm.gather_objects(zero._param_slice_mappings)
    slices = _slices_of_mappings(engine._get_zero_param_shapes(), mappings)[comm.rank]
    lengths = [flat.numel() for flat in zero.single_partition_of_fp32_groups]
    return slices, lengths, list(range(len(lengths)))


def write_redealt(saved: SavedRanks, engine: Any, folder: Path, comm: Comm) -> None:
    """Write this rank's files of the checkpoint `saved`, as `comm.world_size` ranks would have, into `folder`.

    Every rank calls it. Raises what `Redeal` does.
    """
    mine, lengths, groups = layout_of(engine, comm)
    deal = Redeal(saved.slices, mine, lengths)
    state = dict(saved.optimizers[0])
    key = "fp32_flat_groups" if "fp32_flat_groups" in state else "single_partition_of_fp32_groups"
    base = "optimizer_state_dict" if "optimizer_state_dict" in state else "base_optimizer_state"
    state[key] = deal.flats([each[key] for each in saved.optimizers])
    state[base] = _redealt_optimizer([each[base] for each in saved.optimizers], deal, lengths, groups)
    state["partition_count"] = engine.optimizer.partition_count
    for name, attribute in (("group_paddings", "groups_padding"), ("param_slice_mappings", "_param_slice_mappings")):
        if name in state:
            state[name] = getattr(engine.optimizer, attribute)
    model = {**saved.model, "dp_world_size": comm.world_size}
    model_file, optimizer_file = saved.names
    torch.save({"optimizer_state_dict": state}, folder / _of_rank(optimizer_file, comm.rank))
    if comm.rank == 0 or model_file != _SHARED_MODEL_FILE:
        torch.save(model, folder / _of_rank(model_file, comm.rank))


def incomplete(parameter: str, found: int, wanted: int, hint: str) -> CheckpointError:
    """What to raise where a checkpoint has `found` of the `wanted` elements of a trained parameter."""
    return CheckpointError(
        "the checkpoint lacks a part of a trained parameter",
        where={"parameter": parameter},
        got=f"{found} elements",
        expected=f"{wanted} elements",
        hint=hint,
    )


def _redealt_optimizer(
    saved: Sequence[dict[str, Any]], deal: Redeal, lengths: Sequence[int], groups: Sequence[int]
) -> dict[str, Any]:
    """A torch optimizer's state: tensors of a flat tensor's length are re-dealt, the rest is that of the first rank."""
    first = saved[0]
    flats = range(len(lengths))
    state: dict[int, dict[str, Any]] = {}
    for flat in flats if first["state"] else ():
        sources = sorted(deal.sources(flat))
        entry = first["state"][sources[0]]
        state[flat] = {key: value for key, value in entry.items() if not _is_flat(value)}
        for other in sources[1:]:
            _require_equal(state[flat], {k: v for k, v in first["state"][other].items() if not _is_flat(v)})
    kinds = {key for entry in first["state"].values() for key, value in entry.items() if _is_flat(value)}
    for key in sorted(kinds):
        values = [[each["state"][index][key] for index in sorted(each["state"])] for each in saved]
        for flat, tensor in enumerate(deal.flats(values)):
            state[flat][key] = tensor
    members = [[flat for flat in flats if groups[flat] == group] for group in range(len(first["param_groups"]))]
    param_groups = [{**group, "params": flats} for group, flats in zip(first["param_groups"], members, strict=True)]
    return {**first, "state": state, "param_groups": param_groups}


def _is_flat(value: Any) -> bool:
    """Whether an entry of an optimizer's state is of a flat tensor's elements; counters of steps have no dimension."""
    return isinstance(value, torch.Tensor) and value.ndim == 1


def _require_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    for key in one.keys() | other.keys():
        if key not in one or key not in other or not bool(torch.as_tensor(one[key] == other[key]).all()):
            raise CheckpointError(
                "the optimizer's state differs between flat tensors that another number of ranks puts together",
                where={"state": key},
                hint="raise zero_optimization.sub_group_size, or resume with the number of ranks of the checkpoint",
            )


def _slices_of_zero3(shapes: Sequence[Mapping[str, Any]], world_size: int, rank: int) -> list[Slice]:
    """ZeRO-3 deals every parameter evenly to all ranks; the last ones are padded."""
    slices = []
    for flat, parameters in enumerate(shapes):
        offset = 0
        for name, shape in parameters.items():
            numel = torch.Size(shape).numel()
            length = -(-numel // world_size)
            start = rank * length
            slices.append(Slice(name, flat, offset, length, start, max(0, min(length, numel - start)), tuple(shape)))
            offset += length
    return slices


def _slices_of_mappings(
    shapes: Sequence[Mapping[str, Any]], mappings: Sequence[Sequence[Mapping[str, Any]]]
) -> list[list[Slice]]:
    """ZeRO-1 and 2 deal whole groups evenly, so a parameter lies on one rank or on several that follow each other."""
    begun: dict[str, int] = defaultdict(int)
    found: list[list[Slice]] = []
    for rank in mappings:
        found.append([])
        for flat, fragments in enumerate(rank):
            for name, at in fragments.items():
                shape = tuple(shapes[flat][name])
                found[-1].append(Slice(name, flat, at.start, at.numel, begun[name], at.numel, shape))
                begun[name] += at.numel
    return found


def _of_rank(name: str, rank: int) -> str:
    return _RANK_FILE.sub(rf"\g<before>{rank}\g<after>", name)


def _load(file: Path) -> dict[str, Any]:
    # DeepSpeed's own objects are in it; it is this run's own checkpoint, and DeepSpeed reads it in the same way.
    content: dict[str, Any] = torch.load(file, map_location="cpu", mmap=True, weights_only=False)
    return content


def _not_redealable(folder: Path, world_size: int, why: str) -> CheckpointError:
    return CheckpointError(
        f"this checkpoint cannot be continued by another number of ranks: {why}",
        where={"folder": folder},
        expected=f"{world_size} ranks",
        hint="resume with that number of ranks",
    )

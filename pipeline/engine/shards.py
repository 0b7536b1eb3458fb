"""The fp32 weights of ZeRO-3 as this rank holds them: one flat tensor per sub-group, in it a slice of each parameter.

The weights that the model computes with are made from these after every optimizer step. Whoever writes to them between
two steps must publish them, or the model goes on with the old ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as torch_dist

from pipeline.engine.partitions import gradient_partitions


@dataclass(frozen=True)
class Slice:
    """Where one parameter's slice lies.

    Attributes:
        flat: index of the flat tensor.
        offset, length: place in it; the length is the same on every rank, with padding at the parameter's end.
        start, filled: the slice's first element in the whole parameter, and how many it has; the rest is padding.
        shape: of the whole parameter.
    """

    name: str
    flat: int
    offset: int
    length: int
    start: int
    filled: int
    shape: tuple[int, ...]

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """View of this slice, without padding, in a tensor laid out like its flat tensor."""
        return flat.detach()[self.offset : self.offset + self.filled]


class Shards:
    """Flat tensors, their slices, and ways to read and write them.

    Args:
        engine: a DeepSpeedEngine with ZeRO-3 whose optimizer state is not on NVMe; `render_deepspeed` refuses others.
    """

    def __init__(self, engine: Any) -> None:
        assert engine.zero_optimization_stage() == 3, "only ZeRO-3 has shards"
        self.device = torch.device(engine.device)
        self._engine = engine
        self._zero = engine.optimizer
        names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
        self._parameters: dict[str, Any] = {}
        self.slices: list[Slice] = []
        for flat, parameters in enumerate(self._zero.fp16_groups):
            offset = 0
            for parameter in parameters:
                name, length = names[id(parameter)], parameter.partition_numel()
                start = torch_dist.get_rank(parameter.ds_process_group) * length
                filled = max(0, min(length, parameter.ds_numel - start))
                self.slices.append(Slice(name, flat, offset, length, start, filled, tuple(parameter.ds_shape)))
                self._parameters[name] = parameter
                offset += length
        self._by_name = {piece.name: piece for piece in self.slices}

    @property
    def flats(self) -> list[torch.Tensor]:
        """The weights themselves, not copies: one tensor per sub-group, the ones DeepSpeed shows its optimizer."""
        return list(self._zero.fp32_partitioned_groups_flat)

    def copy(self) -> list[torch.Tensor]:
        return [flat.detach().clone() for flat in self.flats]

    def write(self, values: Sequence[torch.Tensor]) -> None:
        """Set the weights to `values`, in the model too; every rank calls it, between two steps."""
        for flat, value in zip(self.flats, values, strict=True):
            flat.data.copy_(value)
        self.publish()

    def publish(self) -> None:
        """Make the model's weights from the fp32 ones, as DeepSpeed does at the end of a step; a collective."""
        self._zero.checkpoint_event_prologue()  # partitions what is gathered at the moment
        for low, high in zip(self._zero.fp16_partitioned_groups_flat, self.flats, strict=True):
            low.data.copy_(high.data)
        self._zero.checkpoint_event_epilogue()  # gathers again what stays gathered

    def gradients(self) -> Iterator[tuple[Slice, torch.Tensor]]:
        """This rank's slices of the mean gradient in fp32, unscaled and unclipped, without padding; no collective.

        Valid between the last backward of a step and `engine.step()`.
        """
        for part in gradient_partitions(self._engine) or ():
            piece = self._by_name[part.name]
            yield piece, part.gradient.flatten()[: piece.filled]

    def zero_gradient(self, piece: Slice) -> None:
        """Take one parameter's gradient out of the step, its norm included; every rank calls it."""
        from deepspeed.utils import safe_set_local_grad

        safe_set_local_grad(self._parameters[piece.name], torch.zeros(piece.length, device=self.device))

    def whole(self, index: int, *values: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """Every rank's `values`, each laid out like flat tensor `index`, put together to whole parameters by name.

        A collective: one all-gather. The results are on the engine's device.
        """
        mine = torch.stack([value.detach().to(self.device, torch.float32) for value in values])  # [V, length]
        ranks = [torch.empty_like(mine) for _ in range(torch_dist.get_world_size())]
        torch_dist.all_gather(ranks, mine)
        found: list[dict[str, torch.Tensor]] = []
        for number in range(len(values)):
            parameters = {}
            for piece in (piece for piece in self.slices if piece.flat == index):
                pieces = [rank[number, piece.offset : piece.offset + piece.length] for rank in ranks]
                numel = torch.Size(piece.shape).numel()
                parameters[piece.name] = torch.cat(pieces)[:numel].view(piece.shape)
            found.append(parameters)
        return found

    def take_slices(self, index: int, whole: dict[str, torch.nn.Parameter]) -> None:
        """Set flat tensor `index` to this rank's slices of whole parameters; does not publish."""
        for piece in (piece for piece in self.slices if piece.flat == index):
            values = whole[piece.name].detach().flatten()[piece.start : piece.start + piece.filled]
            piece.of(self.flats[index]).copy_(values)

    @contextmanager
    def in_groups(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Show `optimizer` its flat tensors in its groups, which DeepSpeed fills only while it steps."""
        for index, flat in enumerate(self.flats):
            optimizer.param_groups[self._zero.sub_group_to_group_id[index]]["params"].append(flat)
        try:
            yield
        finally:
            for group in optimizer.param_groups:
                group["params"] = []

"""Weights out of a checkpoint's files."""

from __future__ import annotations

import pytest
import schedulefree
import torch

from pipeline.engine.saved_weights import schedule_free_average, whole_parameters
from pipeline.engine.shards import Slice
from pipeline.errors import CheckpointError


def slices_of(shapes: dict[str, tuple[int, ...]], ranks: int, rank: int) -> list[Slice]:
    """As ZeRO-3 deals parameters: evenly, the last rank padded; here each in a flat tensor of its own pair."""
    found, offsets = [], [0, 0]
    for number, (name, shape) in enumerate(shapes.items()):
        flat, numel = number % 2, torch.Size(shape).numel()
        length = -(-numel // ranks)
        filled = max(0, min(length, numel - rank * length))
        found.append(Slice(name, flat, offsets[flat], length, rank * length, filled, shape))
        offsets[flat] += length
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_parameters_are_put_together_from_every_ranks_slices(ranks: int) -> None:
    shapes = {"a": (3, 5), "b": (7,), "c": (2, 2), "d": (1,)}
    whole = {name: torch.randn(shape) for name, shape in shapes.items()}
    slices = [slices_of(shapes, ranks, rank) for rank in range(ranks)]
    flats = []
    for pieces in slices:
        flats.append([torch.full((20,), torch.nan) for _ in range(2)])
        for piece in pieces:
            piece.of(flats[-1][piece.flat])[:] = whole[piece.name].flatten()[piece.start : piece.start + piece.filled]
    found = dict(whole_parameters(flats, slices))
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    if ranks == 2:
        with pytest.raises(CheckpointError, match="lacks a part"):
            dict(whole_parameters(flats[:1], slices[:1]))


def test_the_schedule_free_average_is_the_optimizers_own() -> None:
    parameter = torch.nn.Parameter(torch.randn(50))
    optimizer = schedulefree.AdamWScheduleFree([parameter], lr=0.1, betas=(0.9, 0.99))
    for _ in range(5):
        optimizer.train()
        parameter.grad = torch.randn(50)
        optimizer.step()
    state = {
        "fp32_flat_groups": [parameter.detach().clone()],
        "optimizer_state_dict": {"state": {0: {"z": optimizer.state[parameter]["z"].clone()}}},
    }
    optimizer.eval()
    (average,) = schedule_free_average(state, (0.9, 0.99))
    assert torch.equal(average, parameter.detach())

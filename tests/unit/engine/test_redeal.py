"""Slices of flat tensors from any number of ranks to any other, by arithmetic on whole parameters."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.redeal import Redeal, _redealt_optimizer, _slices_of_mappings, _slices_of_zero3
from pipeline.engine.shards import Slice
from pipeline.errors import CheckpointError

Shapes = list[dict[str, tuple[int, ...]]]


def shapes_of(sizes: Sequence[int], groups: int) -> Shapes:
    """Parameters of these sizes, in order, in about equally many flat tensors."""
    per_group = -(-len(sizes) // groups)
    names = [(f"p{number}", (size,)) for number, size in enumerate(sizes)]
    return [dict(names[first : first + per_group]) for first in range(0, len(names), per_group)]


def whole_of(shapes: Shapes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(*shape, generator=generator) for group in shapes for name, shape in group.items()}


def dealt(whole: dict[str, torch.Tensor], slices: Sequence[Slice]) -> list[torch.Tensor]:
    """One rank's flat tensors."""
    flats = [torch.zeros(0) for _ in range(1 + max(piece.flat for piece in slices))]
    for piece in slices:
        padded = torch.zeros(piece.length)
        padded[: piece.filled] = whole[piece.name][piece.start : piece.start + piece.filled]
        flats[piece.flat] = torch.cat([flats[piece.flat], padded])
    return flats


@given(
    sizes=st.lists(st.integers(1, 23), min_size=1, max_size=7),
    before=st.integers(1, 5),
    after=st.integers(1, 5),
    groups=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=60, deadline=None)
def test_another_number_of_ranks_holds_the_same_parameters(
    sizes: list[int], before: int, after: int, groups: tuple[int, int]
) -> None:
    """Also where DeepSpeed cuts the parameters of one group into other flat tensors (`sub_group_size`)."""
    old, new = (shapes_of(sizes, count) for count in groups)
    whole = whole_of(old)
    theirs = [_slices_of_zero3(old, before, rank) for rank in range(before)]
    saved = [dealt(whole, slices) for slices in theirs]
    for rank in range(after):
        mine = _slices_of_zero3(new, after, rank)
        expected = dealt(whole, mine)
        deal = Redeal(theirs, mine, [len(flat) for flat in expected])
        assert all(torch.equal(*pair) for pair in zip(deal.flats(saved), expected, strict=True))
        pieces = deal.pieces([{p.name: p.of(flats[p.flat]) for p in s} for s, flats in zip(theirs, saved, strict=True)])
        for piece in mine:
            assert torch.equal(pieces[piece.name], whole[piece.name][piece.start : piece.start + piece.filled])


def test_slices_of_whole_groups_follow_each_other_over_ranks() -> None:
    """ZeRO-2: a group of 5 + 4 elements on two ranks with 5 places each; the second parameter lies on both."""

    def at(start: int, numel: int) -> SimpleNamespace:
        return SimpleNamespace(start=start, numel=numel)

    slices = _slices_of_mappings([{"a": (4,), "b": (5,)}], [[{"a": at(0, 4), "b": at(4, 1)}], [{"b": at(0, 4)}]])
    assert [(p.name, p.offset, p.start, p.filled) for rank in slices for p in rank] == [
        ("a", 0, 0, 4), ("b", 4, 0, 1), ("b", 0, 1, 4)
    ]  # fmt: skip


def test_an_optimizers_elements_are_redealt_and_its_counters_kept() -> None:
    shapes: Shapes = [{"a": (5,)}, {"b": (3,)}]
    theirs = [_slices_of_zero3(shapes, 2, rank) for rank in range(2)]
    moments = whole_of(shapes)
    groups = [{"lr": 0.1, "weight_decay": 0.5, "params": [0]}, {"lr": 0.1, "weight_decay": 0.0, "params": [1]}]
    saved = [
        {
            "state": {i: {"step": torch.tensor(7.0), "exp_avg": flat} for i, flat in enumerate(dealt(moments, slices))},
            "param_groups": groups,
            "inner": "the same on every rank",
        }
        for slices in theirs
    ]
    (mine,) = [_slices_of_zero3(shapes, 1, 0)]
    state = _redealt_optimizer(saved, Redeal(theirs, mine, [5, 3]), [5, 3], [0, 1])
    assert torch.equal(state["state"][0]["exp_avg"], moments["a"])
    assert torch.equal(state["state"][1]["exp_avg"], moments["b"])
    assert state["state"][1]["step"] == 7 and state["inner"] == "the same on every rank"
    assert state["param_groups"] == groups  # each group keeps its own hyper-parameters


def test_counters_that_differ_cannot_be_put_together() -> None:
    before, after = [{"a": (2,)}, {"b": (2,)}], [{"a": (2,), "b": (2,)}]
    theirs = [_slices_of_zero3(before, 1, 0)]
    entries = {i: {"step": torch.tensor(float(i)), "exp_avg": torch.ones(2)} for i in range(2)}
    saved = [{"state": entries, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}]
    with pytest.raises(CheckpointError, match="differs between flat tensors"):
        _redealt_optimizer(saved, Redeal(theirs, _slices_of_zero3(after, 1, 0), [4]), [4], [0])


def test_a_parameter_that_was_not_trained_then_is_refused() -> None:
    theirs = [_slices_of_zero3([{"a": (3,)}], 1, 0)]
    mine = _slices_of_zero3([{"b": (3,)}], 1, 0)
    with pytest.raises(CheckpointError, match="lacks a part"):
        Redeal(theirs, mine, [3]).flats([[torch.ones(3)]])

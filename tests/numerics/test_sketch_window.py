"""The window's sums: on one rank, over two real ranks, saved and loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as torch_dist
import torch.multiprocessing as torch_mp

from pipeline.dist import SingleProcess, TorchComm
from pipeline.errors import SketchError
from pipeline.sketch.accumulator import MAX_GROUP_BATCHES_BYTES, SketchWindow, group_batches_fit
from pipeline.sketch.spec import SketchSpec

SPEC = SketchSpec(k=64, seed=5)
DATASETS, GROUPS = ["clotho", "macs", "unseen"], ["lora_A", "lora_B"]


def micro_batches(count: int = 12) -> Iterator[tuple[int, str, torch.Tensor, int]]:
    """(key, dataset, sketch, tokens); number 7 is not finite."""
    generator = torch.Generator().manual_seed(0)
    for key in range(count):
        sketch = torch.randn(len(GROUPS), SPEC.k, generator=generator)
        if key == 7:
            sketch[1, 3] = float("nan")
        yield key, DATASETS[key % 2], sketch, 10 + key


def weight(tokens: int) -> float:
    return tokens / 8


def filled(rank: int = 0, world_size: int = 1, keep_batches: bool = True, keep_groups: bool = False) -> SketchWindow:
    window = SketchWindow(DATASETS, GROUPS, SPEC, keep_batches=keep_batches, keep_groups=keep_groups)
    for key, dataset, sketch, tokens in micro_batches():
        if key % 3 % world_size == rank:
            window.add(dataset, sketch, tokens, weight=weight(tokens), key=key, spec=SPEC)
    return window


def test_sums_counts_and_batches() -> None:
    window = filled()
    kept = [item for item in micro_batches() if item[0] != 7]
    for d, name in enumerate(DATASETS[:2]):
        mine = [(sketch, tokens) for _, dataset, sketch, tokens in kept if dataset == name]
        plain = torch.stack([sketch for sketch, _ in mine])
        weights = torch.tensor([weight(tokens) for _, tokens in mine])
        stacked = weights[:, None, None] * plain
        assert torch.allclose(window.sum[d], stacked.sum(0), atol=1e-5)
        assert torch.allclose(window.mean[d], stacked.sum(0) / weights.sum(), atol=1e-5)
        assert torch.allclose(window.half_sum_sq.sum(0)[d], stacked.double().square().sum((0, 2)))
        assert torch.allclose(window.half_total_sq.sum(0)[d], stacked.sum(1).double().square().sum())
        assert torch.equal(window.batches()[d], plain.sum(1))
        assert window.export()["batch_weights"][d].tolist() == weights.tolist()
        assert window.half_weight.sum(0)[d] == weights.sum()
        assert torch.isclose(window.half_weight_sq.sum(0)[d], weights.double().square().sum())
        assert window.tokens[d] == sum(tokens for _, tokens in mine)
    assert window.count.tolist() == [6, 5, 0]
    assert window.dropped.tolist() == [0, 1, 0]
    assert torch.isfinite(window.sum).all()


def test_kept_micro_batches_can_keep_their_groups_apart() -> None:
    window, plain = filled(keep_groups=True), filled()
    for d, name in enumerate(DATASETS[:2]):
        mine = [sketch for key, dataset, sketch, _ in micro_batches() if dataset == name and key != 7]
        assert torch.equal(window.group_batches()[d], torch.stack(mine))
    assert plain.group_batches() is None and plain.export()["group_batches"] is None
    assert all(torch.equal(a, b) for a, b in zip(window.batches(), plain.batches(), strict=True))
    assert [rows.shape for rows in window.export()["group_batches"]] == [(6, 2, 64), (5, 2, 64), (0, 2, 64)]
    window.add("macs", torch.full((2, 64), 2.0), key=99)
    assert torch.equal(window.group_batches()[1][-1], torch.full((2, 64), 2.0))
    with pytest.raises(SketchError, match="kept micro-batches"):
        filled(keep_batches=False, keep_groups=True)


def test_a_kept_sketch_does_not_follow_its_buffer() -> None:
    window, buffer = SketchWindow(["a"], GROUPS, SPEC, keep_batches=True, keep_groups=True), torch.ones(2, 64)
    window.add("a", buffer)
    buffer.zero_()
    assert float(window.group_batches()[0].min()) == 1.0


def test_groups_are_kept_apart_up_to_a_bound_in_bytes() -> None:
    assert group_batches_fit(14 * 16, groups=4, k=8192)
    assert not group_batches_fit(14 * 16, groups=200, k=8192)
    assert group_batches_fit(1, 1, MAX_GROUP_BATCHES_BYTES // 4) and not group_batches_fit(
        1, 1, MAX_GROUP_BATCHES_BYTES
    )


def test_add_says_whether_it_kept_the_sketch() -> None:
    window = SketchWindow(DATASETS, GROUPS, SPEC)
    assert window.add("macs", torch.ones(2, 64)) is True
    assert window.add("macs", torch.full((2, 64), float("inf"))) is False
    assert window.batches() is None


@pytest.mark.parametrize("stride", [1, 2, 3, 14])
def test_halves_are_even_for_any_way_of_taking_turns(stride: int) -> None:
    window = SketchWindow(["a"], ["all"], SPEC)
    for turn in range(64):
        window.add("a", torch.ones(1, 64), key=turn * stride + 1)
    assert 16 <= float(window.half_count[0]) <= 48
    assert torch.equal(window.half_sum[0] + window.half_sum[1], window.sum)


def _reduce_on_rank(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch_dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world_size)
    try:
        comm, window = TorchComm(), filled(rank, world_size)
        once, again = window.all_reduce(comm), window.all_reduce(comm)
        assert torch.equal(once.half_sum, again.half_sum)
        other = SketchWindow(DATASETS, GROUPS, SketchSpec(k=64, seed=5, model=f"base{rank}"))
        for broken, words in (
            (other, "layout"),
            (_unkeyed(), "common order"),
            (_same_key_everywhere(), "same micro-batch"),
        ):
            try:
                broken.all_reduce(comm)
            except SketchError as error:
                assert words in str(error)
            else:
                raise AssertionError(f"not refused: {words}")
        torch.save(once.state_dict(), f"{folder}/rank{rank}.pt")
        torch.save(
            filled(rank, world_size, keep_groups=True).all_reduce(comm).group_batches(), f"{folder}/groups{rank}.pt"
        )
    finally:
        torch_dist.destroy_process_group()


def _unkeyed() -> SketchWindow:
    window = SketchWindow(DATASETS, GROUPS, SPEC, keep_batches=True)
    window.add("macs", torch.ones(2, 64))
    return window


def _same_key_everywhere() -> SketchWindow:
    window = SketchWindow(DATASETS, GROUPS, SPEC, keep_batches=True)
    window.add("macs", torch.ones(2, 64), key=4)
    return window


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    torch_mp.spawn(_reduce_on_rank, args=(2, str(tmp_path)), nprocs=2)
    alone = filled().all_reduce(SingleProcess()).state_dict()
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for state in ranks:
        for name, value in alone["sums"].items():
            assert torch.allclose(state["sums"][name], value, atol=1e-5), name
    window = SketchWindow(DATASETS, GROUPS, SPEC, keep_batches=True)
    for state in ranks:
        window.load_state_dict(state)
        assert all(torch.equal(a, b) for a, b in zip(window.batches(), filled().batches(), strict=True))
    apart = filled(keep_groups=True).group_batches()
    for rank in (0, 1):
        loaded = torch.load(tmp_path / f"groups{rank}.pt")
        assert all(torch.equal(a, b) for a, b in zip(loaded, apart, strict=True))


@pytest.mark.parametrize("keep_groups", [False, True])
def test_state_goes_through_a_checkpoint(tmp_path: Path, keep_groups: bool) -> None:
    window = filled(keep_groups=keep_groups)
    torch.save(window.state_dict(), tmp_path / "state.pt")
    loaded = SketchWindow(DATASETS, GROUPS, SPEC, keep_batches=True, keep_groups=keep_groups)
    loaded.load_state_dict(torch.load(tmp_path / "state.pt"))
    for each in (window, loaded):
        each.add("macs", torch.ones(2, 64), 3, key=99)
    assert torch.equal(loaded.half_sum, window.half_sum)
    assert np.array_equal(loaded.export()["batches"][1], window.export()["batches"][1])
    loaded.reset()
    assert loaded.count.tolist() == [0, 0, 0]
    assert float(loaded.half_sum.abs().sum()) == 0


@pytest.mark.parametrize(
    "other",
    [
        SketchWindow(DATASETS[:2], GROUPS, SPEC),
        SketchWindow(DATASETS, GROUPS[:1], SPEC),
        SketchWindow(DATASETS, GROUPS, SketchSpec(k=64, seed=6)),
        SketchWindow(DATASETS, GROUPS, SketchSpec(k=64, seed=5, gradient="sign")),
        SketchWindow(DATASETS, GROUPS, SketchSpec(k=64, seed=5, model="abc")),
        SketchWindow(DATASETS, GROUPS, SPEC, keep_batches=True),
    ],
)
def test_a_state_of_another_layout_is_refused(other: SketchWindow) -> None:
    with pytest.raises(SketchError, match="does not fit"):
        other.load_state_dict(SketchWindow(DATASETS, GROUPS, SPEC).state_dict())


def test_wrong_input_is_refused() -> None:
    window = SketchWindow(DATASETS, GROUPS, SPEC, keep_batches=True)
    sketch = torch.ones(2, 64)
    with pytest.raises(SketchError, match="clotho"):
        window.add("cloto", sketch)
    with pytest.raises(SketchError, match="differ in seed"):
        window.add("clotho", sketch, spec=SketchSpec(k=64, seed=6))
    with pytest.raises(SketchError, match="differ in gradient, model"):
        window.add("clotho", sketch, spec=SketchSpec(k=64, seed=5, gradient="sign", model="abc"))
    with pytest.raises(SketchError, match="positive weight"):
        window.add("clotho", sketch, weight=0.0)
    with pytest.raises(SketchError, match="layout"):
        window.add("clotho", torch.ones(2, 32))
    window.add("clotho", sketch, key=1)
    with pytest.raises(SketchError, match="twice"):
        window.add("clotho", sketch, key=1)
    assert window.count.tolist() == [1, 0, 0]
    with pytest.raises(SketchError, match="once"):
        SketchWindow(["a", "a"], GROUPS, SPEC)

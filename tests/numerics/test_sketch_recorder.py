"""Recorders of training: weights, averages, the second seed, whole steps, states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.affinity.conflict import conflict_summary
from pipeline.affinity.estimator import GradientStats, corrected_gram
from pipeline.dist import SingleProcess
from pipeline.errors import SketchError
from pipeline.models.encode import IGNORE
from pipeline.models.loss import answer_loss
from pipeline.sketch.accumulator import SketchWindow, mix64
from pipeline.sketch.check import compare_seeds
from pipeline.sketch.hooks import GradientSketcher
from pipeline.sketch.partition import PartitionSketcher
from pipeline.sketch.recorder import PartitionRecorder, SketchRecorder
from pipeline.sketch.reference import sketch as reference_sketch
from pipeline.sketch.spec import SketchSpec
from pipeline.types import GradientPartition, MicroBatch

SPEC = SketchSpec(k=256, seed=5)
DATASETS = ["clotho", "macs", "wavcaps"]
VOCABULARY, EXAMPLES = 30, 12


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(VOCABULARY, 16)
        self.head = torch.nn.Linear(16, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.embed(tokens)).cumsum(1))


@pytest.fixture
def model() -> Model:
    return Model()


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    """tokens and labels [EXAMPLES, T], answers of 1 to 12 tokens."""
    tokens = torch.randint(VOCABULARY, (EXAMPLES, 20), generator=torch.Generator().manual_seed(1))
    labels = torch.full_like(tokens, IGNORE)
    for row in range(EXAMPLES):
        labels[row, 20 - (row + 1) :] = tokens[row, 20 - (row + 1) :]
    return tokens, labels


def micro_batch(dataset: str = "macs") -> MicroBatch:
    return MicroBatch(dataset, (), {}, 0.0)


def exports_of(recorder_class: Any, *arguments: Any, **options: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A recorder whose window of one step keeps what it exports."""
    exports: list[dict[str, Any]] = []

    def keep(export: dict[str, Any], step: int) -> dict[str, Any]:
        exports.append(export)
        return {}

    options = {"window_steps": 1, **options}
    return recorder_class(*arguments, DATASETS, SingleProcess(), summarise=keep, **options), exports


def reference_of(model: Model, transform: Any = lambda grad: grad) -> torch.Tensor:
    parts = [reference_sketch(transform(p.grad), SPEC.seed_of(n), SPEC.k) for n, p in model.named_parameters()]
    return torch.stack(parts).sum(0)


def relative(ours: Any, theirs: torch.Tensor) -> float:
    return float((torch.as_tensor(ours).double() - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("sizes", [(12,), (1, 11), (3, 4, 5), (1,) * 12])
def test_the_mean_is_of_the_loss_per_token_however_examples_are_cut(model: Model, sizes: tuple[int, ...]) -> None:
    tokens, labels = examples()
    answer_loss(model(tokens), labels).mean.backward()
    exact = reference_of(model)
    sketcher = GradientSketcher(model.named_parameters(), SPEC)
    by_tokens, weighted = exports_of(SketchRecorder, sketcher, weigh_by_tokens=True)
    alike, plain = exports_of(SketchRecorder, GradientSketcher(model.named_parameters(), SPEC))
    order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(2))
    for rows in order.split(sizes):
        loss = answer_loss(model(tokens[rows]), labels[rows])
        with ExitStack() as stack:
            for each in (by_tokens, alike):
                stack.enter_context(each.micro_batch(micro_batch(), loss.tokens, scale=len(sizes)))
            (loss.mean / len(sizes)).backward()
    for each in (by_tokens, alike):
        each.end_of_step(1)
    assert weighted[0]["tokens"][1] == weighted[0]["weight"][1] == 78
    assert relative(weighted[0]["sum"][1] / weighted[0]["weight"][1], exact) < 1e-5
    unweighted = relative(plain[0]["sum"][1] / plain[0]["weight"][1], exact)
    assert unweighted < 1e-5 if len(sizes) == 1 else unweighted > 0.05


def test_padding_and_repeated_examples_change_nothing(model: Model) -> None:
    tokens, labels = examples()
    sketcher, taken = GradientSketcher(model.named_parameters(), SPEC), []
    padded = torch.nn.functional.pad(tokens, (0, 7)), torch.nn.functional.pad(labels, (0, 7), value=IGNORE)
    for x, y in ((tokens, labels), padded, (tokens.repeat(3, 1), labels.repeat(3, 1))):
        with sketcher.micro_batch():
            answer_loss(model(x), y).mean.backward()
        taken.append(sketcher.take().double())
    assert all(relative(other, taken[0]) < 1e-5 for other in taken[1:])


def random_window(seed: int, counts: tuple[int, ...], first_key: int = 0) -> SketchWindow:
    window = SketchWindow(DATASETS, ["a", "b"], SPEC)
    generator = torch.Generator().manual_seed(seed)
    for dataset, count in zip(DATASETS, counts, strict=True):
        for turn in range(count):
            sketch = torch.randn(2, SPEC.k, generator=generator) + 0.3
            window.add(dataset, sketch, tokens=3, weight=1.0 + turn, key=first_key + turn)
    return window


def test_an_average_fades_by_micro_batches_of_its_own_dataset() -> None:
    half_life, average = 4.0, SketchWindow(DATASETS, ["a", "b"], SPEC)
    windows = [random_window(seed, counts) for seed, counts in enumerate([(3, 2, 1), (5, 0, 2), (4, 2, 0)])]
    for window in windows:
        average.absorb(window, half_life)
    counts = torch.stack([window.count for window in windows])
    later = counts.flip(0).cumsum(0).flip(0) - counts  # [windows, D] micro-batches of the dataset in later windows
    fading = 0.5 ** (later / half_life)
    expected_sum = sum(f[:, None, None].float() * w.sum for f, w in zip(fading, windows, strict=True))
    assert torch.allclose(average.sum, expected_sum, atol=1e-4)
    for name, power in (("half_weight", 1), ("half_weight_sq", 2), ("half_total_sq", 2)):
        expected = sum(f**power * getattr(w, name) for f, w in zip(fading, windows, strict=True))
        assert torch.allclose(getattr(average, name), expected), name
    assert average.count.tolist() == counts.sum(0).tolist()
    with pytest.raises(SketchError, match="half-life"):
        average.absorb(windows[0], 0.0)
    with pytest.raises(SketchError, match="another layout"):
        average.absorb(SketchWindow(DATASETS, ["a", "b"], SketchSpec(k=256, seed=6)), 4.0)


def test_weighted_estimates_are_those_of_all_pairs_of_different_micro_batches() -> None:
    rng = np.random.default_rng(0)
    rows, weights = rng.standard_normal((7, 20)) + 1, rng.uniform(0.2, 3, 7)
    stats = GradientStats(
        datasets=["a"],
        count=np.array([7]),
        sum=(weights @ rows)[None],
        sum_sq=np.array([weights**2 @ np.square(rows).sum(1)]),
        weight=np.array([weights.sum()]),
        weight_sq=np.array([np.square(weights).sum()]),
    )
    pairs = [(weights[b] * weights[c], rows[b] @ rows[c]) for b in range(7) for c in range(7) if b != c]
    estimate = corrected_gram(stats)
    assert estimate.gram[0, 0] == pytest.approx(sum(w * x for w, x in pairs) / sum(w for w, _ in pairs))
    mean_sq = weights**2 @ np.square(rows).sum(1) / np.square(weights).sum()
    assert estimate.noise[0] == pytest.approx(mean_sq - estimate.gram[0, 0])


def test_the_average_reaches_the_summary_and_windows_the_count_of_dropped(model: Model) -> None:
    recorder, exports = exports_of(SketchRecorder, GradientSketcher(model.named_parameters(), SPEC), half_life=2.0)
    tokens, labels = examples()
    for step, factor in ((1, float("nan")), (2, 1.0), (3, 1.0)):
        with recorder.micro_batch(micro_batch(), 78, scale=1.0):
            (factor * answer_loss(model(tokens), labels).mean).backward()
        assert recorder.end_of_step(step)["micro_batches"] == (step > 1)
    assert [int(export["dropped"][1]) for export in exports] == [1, 0, 0]
    assert exports[2]["weight"][1] == pytest.approx(1 + 0.5**0.5)
    assert conflict_summary(GradientStats(**exports[0])) == {
        "datasets": 0,
        "dropped": 1,
        "dropped_by_dataset": {"macs": 1},
    }


def test_two_seeds_measure_the_error_that_theory_predicts() -> None:
    specs = (SPEC, SketchSpec(k=256, seed=6))
    names = [f"set{i:02d}" for i in range(12)]
    first, second = (SketchWindow(names, ["all"], spec) for spec in specs)
    common, *own = torch.randn(13, 40_000, generator=torch.Generator().manual_seed(3))
    for i, name in enumerate(names):
        for key in range(2):
            grad = common + own[i] + 0.1 * key
            for window in (first, second):
                sketch = reference_sketch(grad, window.spec.seed_of("w"), 256)
                window.add(name, sketch.float()[None], key=key)
    numbers = compare_seeds(first, second)
    assert (numbers["micro_batches"], numbers["pairs"]) == (24, 66)
    assert numbers["expected_error"] == pytest.approx(0.75 / 16, rel=0.1)  # cosines are 0.5
    assert numbers["cosine_error"] == pytest.approx(numbers["expected_error"], rel=0.4)
    with pytest.raises(SketchError, match="between two seeds"):
        compare_seeds(first, first)
    second.add(names[0], torch.ones(1, 256), key=9)
    with pytest.raises(SketchError, match="same micro-batches"):
        compare_seeds(first, second)
    assert compare_seeds(*(SketchWindow(names, ["all"], spec) for spec in specs)) == {"micro_batches": 0}


def test_the_second_seed_sees_the_same_share_of_every_dataset(model: Model) -> None:
    second = GradientSketcher(model.named_parameters(), SketchSpec(k=256, seed=6))
    options = {"second": second, "second_every": 4, "window_steps": 64}
    recorder, _ = exports_of(SketchRecorder, GradientSketcher(model.named_parameters(), SPEC), **options)
    tokens, labels = examples()
    for turn in range(64):  # datasets in turn: a plain `key % 4` would only ever meet one of them
        with recorder.micro_batch(micro_batch(DATASETS[turn % 2]), 5, scale=1.0):
            answer_loss(model(tokens[turn % 12 :][:1]), labels[turn % 12 :][:1]).mean.backward()
    checked = recorder.windows.checks[1].count
    assert 3 <= checked[0] <= 14 and 3 <= checked[1] <= 14
    assert checked.sum() == sum(mix64(key) % 4 == 0 for key in range(64))
    numbers = recorder.end_of_step(64)
    assert numbers["second_seed"]["micro_batches"] == int(checked.sum())
    assert 0 < numbers["second_seed"]["cosine_error"] < 0.5
    assert float(recorder.windows.checks[0].count.sum()) == 0  # each window anew


def slices(model: Model, world_size: int, rank: int, denominators: bool = False) -> Iterator[GradientPartition]:
    """What ZeRO-3 leaves on `rank`: ceil(numel / W) elements, padded with rubbish at the end."""
    for name, parameter in model.named_parameters():
        flat = parameter.grad.reshape(-1)
        size = -(-flat.numel() // world_size)
        padded = torch.cat([flat, torch.full((size * world_size - flat.numel(),), 99.0)])
        piece = padded[rank * size : (rank + 1) * size]
        second = piece.abs() + 0.1 if denominators else None
        yield GradientPartition(f"module.{name}", piece, rank * size, flat.numel(), second)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("gradient", "transform"),
    [
        ("raw", lambda grad: grad),
        ("adam", lambda grad: grad / (grad.abs() + 0.1)),
        ("sign_of_step", torch.sign),
    ],
)
def test_slices_add_up_to_the_sketch_of_the_whole(model: Model, world_size: int, gradient: str, transform: Any) -> None:
    tokens, labels = examples()
    answer_loss(model(tokens), labels).mean.backward()
    spec = SketchSpec(k=256, seed=5, gradient=gradient)
    sketcher = PartitionSketcher(model.named_parameters(), spec)
    parts = [sketcher.sketch(slices(model, world_size, rank, gradient == "adam")) for rank in range(world_size)]
    assert sketcher.groups == ["embed", "other"]
    assert relative(torch.stack(parts).sum((0, 1)), reference_of(model, transform)) < 1e-5


def partition_recorder(model: Model, **options: Any) -> tuple[PartitionRecorder, list[dict[str, Any]]]:
    sketcher = PartitionSketcher(model.named_parameters(), SPEC)
    second = PartitionSketcher(model.named_parameters(), SketchSpec(k=256, seed=6))
    options = {"partitions": lambda: slices(model, 1, 0), "second": second, "second_every": 2, **options}
    return exports_of(PartitionRecorder, sketcher, window_steps=4, weigh_by_tokens=True, **options)


def run_steps(recorder: PartitionRecorder, model: Model, plan: list[list[str]], first: int = 1) -> list[Any]:
    """Steps whose micro-batches are of the given datasets; the gradient depends on the step's number alone."""
    tokens, labels = examples()
    results = []
    for step, datasets in enumerate(plan, start=first):
        model.zero_grad()
        for number, dataset in enumerate(datasets):
            loss = answer_loss(model(tokens[step % 5 + number :][:3]), labels[step % 5 + number :][:3])
            with recorder.micro_batch(micro_batch(dataset), loss.tokens, scale=len(datasets)):
                (loss.mean / len(datasets)).backward()
        recorder.reduced()
        results.append(recorder.end_of_step(step))
    return results


PLAN = [["macs", "macs"], ["macs", "clotho"], ["clotho", "clotho"], ["macs", "macs"]]


def test_only_steps_of_one_dataset_count(model: Model) -> None:
    recorder, exports = partition_recorder(model)
    *open_steps, numbers = run_steps(recorder, model, PLAN)
    assert open_steps == [None, None, None]
    assert numbers["steps"] == {"sketched": 3, "mixed": 1, "without_second_moment": 0}
    assert numbers["micro_batches"] == 3 and "note" not in numbers
    assert exports[0]["count"].tolist() == [1, 2, 0]
    assert exports[0]["weight"].tolist() == exports[0]["tokens"].tolist()
    alone, exact = partition_recorder(model)
    run_steps(alone, model, [PLAN[2]], first=3)
    assert relative(alone._parts[0][:2].sum(0), reference_of(model)) < 1e-5
    assert relative(exports[0]["sum"][0] / exports[0]["weight"][0], reference_of(model)) < 1e-5
    *_, mixed = run_steps(recorder, model, [PLAN[1]] * 4, first=5)
    assert mixed["steps"]["mixed"] == 4 and "sketch.mode=hook" in mixed["note"]
    assert exact == []


def test_steps_before_the_second_moments_exist_are_counted(model: Model) -> None:
    recorder, _ = partition_recorder(model, partitions=lambda: None)
    *_, numbers = run_steps(recorder, model, PLAN)
    assert numbers["steps"] == {"sketched": 0, "mixed": 1, "without_second_moment": 3}


@pytest.mark.parametrize("half_life", [None, 3.0])
def test_a_resumed_partition_recorder_goes_on(model: Model, half_life: float | None, tmp_path: Path) -> None:
    whole, expected = partition_recorder(model, half_life=half_life)
    run_steps(whole, model, PLAN * 2)
    before, first = partition_recorder(model, half_life=half_life)
    run_steps(before, model, (PLAN * 2)[:6])
    torch.save(before.state_dict(), tmp_path / "rank0.pt")
    after, second = partition_recorder(model, half_life=half_life)
    after.load_state_dict(torch.load(tmp_path / "rank0.pt", weights_only=True))
    run_steps(after, model, (PLAN * 2)[6:], first=7)
    for got, want in zip([*first, *second], expected, strict=True):
        for name, value in want.items():
            same = np.array_equal(got[name], value) if isinstance(value, np.ndarray) else got[name] == value
            assert same, name


def test_a_recorder_of_another_form_is_refused(model: Model) -> None:
    with_average, _ = partition_recorder(model, half_life=3.0)
    without, _ = partition_recorder(model)
    with pytest.raises(SketchError, match=r"sketch\.form"):
        without.load_state_dict(with_average.state_dict())
    with pytest.raises(SketchError, match="belong together"):
        partition_recorder(model, second=None)

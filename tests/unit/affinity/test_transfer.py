"""Transfer between datasets: planted groups, a model whose transfer is known in closed form, results on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from pipeline.affinity.estimator import Array, distance_of
from pipeline.affinity.transfer import (
    TransferResults,
    planned_trainings,
    transfer_bootstrap,
    transfer_estimate,
    transfer_version,
    transfers,
)
from pipeline.affinity.transfer_log import BASE, TransferHeader, TransferLine, TransferLog, open_log, read_log
from pipeline.affinity.versions import dump_version, load_version, parse_version, save_version
from pipeline.config.schema import AffinityConfig
from pipeline.errors import AffinityError

LR, STEPS = 0.02, 30
SHRUNK = (1 - LR) ** STEPS  # of the way to its optimum, what gradient descent on one quadratic has left
WALKED = 1 - SHRUNK


def quadratic(centers: Array, trainings: str, offset: float = 0.0) -> TransferResults:
    """Losses |theta - c_j|^2 / 2 + offset, trained by real gradient descent from theta = 0; one repeat."""
    d = len(centers)

    def losses(theta: Array) -> Array:
        return np.square(theta - centers).sum(1) / 2 + offset

    def trained(shares: Array) -> Array:
        theta = np.zeros(centers.shape[1])
        for _ in range(STEPS):
            theta = theta - LR * sum(share * (theta - center) for share, center in zip(shares, centers, strict=True))
        return losses(theta)

    alone = np.eye(d)
    after = np.array(
        [
            [trained(alone[i] if trainings == "source" else (alone[i] + alone[j]) / 2)[j] for j in range(d)]
            for i in range(d)
        ]
    )
    names = [f"set{i:02d}" for i in range(d)]
    return TransferResults(names, trainings, losses(np.zeros(centers.shape[1]))[None], after[None], steps=STEPS)


def grouped_centers(seed: int, sizes: tuple[int, ...] = (5, 5, 4)) -> tuple[Array, Array]:
    """Unit vectors [D, 40] around group directions, and the groups' numbers."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    directions = rng.standard_normal((len(sizes), 40))
    centers = directions[labels] + 0.6 * rng.standard_normal((len(labels), 40))
    return centers / np.linalg.norm(centers, axis=1, keepdims=True), labels


def noisy(results: TransferResults, repeats: int, noise: float, seed: int = 0) -> TransferResults:
    """The same results, repeated with independent noise on every loss after a training."""
    shape = (repeats, *results.after.shape[1:])
    after = results.after + noise * np.random.default_rng(seed).standard_normal(shape)
    return replace(results, base=np.tile(results.base, (repeats, 1)), after=after)


def agreement(labels: Array, groups: list[list[str]]) -> float:
    found = {name: number for number, group in enumerate(groups) for name in group}
    return adjusted_rand_score(labels, [found[name] for name in sorted(found)])


def test_trainings_are_every_dataset_or_every_unordered_pair_with_itself() -> None:
    assert planned_trainings(["a", "b", "c"], "source") == [("a",), ("b",), ("c",)]
    pairs = planned_trainings(["a", "b", "c"], "pair")
    assert pairs == [("a",), ("a", "b"), ("a", "c"), ("b",), ("b", "c"), ("c",)]


def test_source_transfer_is_that_of_the_closed_form() -> None:
    """One quadratic each: theta = a c_i after training on i, with a = 1 - (1 - lr)^steps."""
    centers = np.random.default_rng(0).standard_normal((4, 6))
    results = quadratic(centers, "source", offset=0.5)
    gram, base = centers @ centers.T, np.square(centers).sum(1) / 2 + 0.5
    one_way = (WALKED * gram - WALKED**2 / 2 * np.diag(gram)[:, None]) / base[None, :]
    assert np.allclose(transfers(results)[0], (one_way + one_way.T) / 2)


def test_pair_transfer_is_that_of_the_closed_form() -> None:
    centers = np.random.default_rng(1).standard_normal((4, 6))
    results = quadratic(centers, "pair", offset=0.5)
    gram, base = centers @ centers.T, np.square(centers).sum(1) / 2 + 0.5
    own = np.diag(gram)
    to_both = gram / 2 + own[None, :] / 2  # m . c_j with m the mean of both optima
    spread = (own[:, None] + own[None, :] + 2 * gram) / 4  # |m|^2
    gain = (WALKED * to_both - WALKED**2 / 2 * spread) / base[None, :]
    alone = (WALKED - WALKED**2 / 2) * own / base
    one_way = 2 * gain - alone[None, :]
    assert np.allclose(transfers(results)[0], (one_way + one_way.T) / 2)
    assert np.allclose(np.diag(transfers(results)[0]), alone)


@pytest.mark.parametrize("trainings", ["source", "pair"])
def test_distances_are_those_of_the_gradients_exactly(trainings: str) -> None:
    """Where all losses are alike at the base, curvature changes the unit of the distances and nothing else."""
    centers, _ = grouped_centers(0)
    estimate = transfer_estimate(quadratic(centers, trainings))
    gradient = distance_of(centers @ centers.T)
    unit = WALKED if trainings == "source" else WALKED - WALKED**2 / 2
    assert np.allclose(estimate.distance_sq, 2 * unit * gradient)  # a loss of 1/2 at the base
    assert np.array_equal(estimate.gram, estimate.gram.T)
    assert np.isnan(estimate.noise).all() and estimate.warnings == ()


@pytest.mark.parametrize("trainings", ["source", "pair"])
def test_what_every_training_gives_alike_cancels_in_the_distance(trainings: str) -> None:
    results = quadratic(grouped_centers(1)[0], trainings)
    drift = np.random.default_rng(0).uniform(0, 0.05, results.after.shape[-1])
    moved = replace(results, after=results.after - drift)
    assert np.allclose(transfer_estimate(moved).distance_sq, transfer_estimate(results).distance_sq)
    assert not np.allclose(transfer_estimate(moved).cosine, transfer_estimate(results).cosine)


@pytest.mark.parametrize("trainings", ["source", "pair"])
@pytest.mark.parametrize("metric", ["distance", "cosine"])
def test_planted_groups_are_found(trainings: str, metric: str) -> None:
    centers, labels = grouped_centers(2)
    results = noisy(quadratic(centers, trainings), repeats=4, noise=0.01)
    version = transfer_version(results, AffinityConfig(metric=metric, groups="auto", bootstrap=30))
    assert agreement(labels, version.groups) == 1.0, version.verdict
    assert version.grouping.gap_low > 0 and version.method == version.grouping.source == "transferability"
    once = transfer_version(quadratic(centers, trainings), AffinityConfig(metric=metric, groups=3))
    assert agreement(labels, once.groups) == 1.0
    assert not once.intervals and "no evidence" in once.verdict and "transfer.seeds" in once.verdict


def test_noise_alone_gives_one_group() -> None:
    d = 14
    flat = TransferResults([f"set{i:02d}" for i in range(d)], "source", np.ones((1, d)), np.full((1, d, d), 0.9))
    answers = [
        transfer_version(noisy(flat, 6, 0.05, seed), AffinityConfig(groups="auto", bootstrap=30)).grouping.k
        for seed in range(10)
    ]
    assert sum(k == 1 for k in answers) >= 9


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    centers, _ = grouped_centers(3, sizes=(3, 3))
    exact = quadratic(centers, "source")
    truth = transfer_estimate(exact).distance_sq
    upper = np.triu_indices(len(truth), 1)
    covered = []
    for seed in range(60):
        resamples = transfer_bootstrap(noisy(exact, repeats=8, noise=0.01, seed=seed), n=200, seed=seed, level=0.9)
        covered.append(((resamples.distance_low <= truth) & (truth <= resamples.distance_high))[upper].mean())
    assert 0.82 <= np.mean(covered) <= 0.95


def test_halves_share_no_repeat() -> None:
    exact = quadratic(grouped_centers(4)[0], "source")
    results = noisy(exact, repeats=5, noise=0.05)
    resamples = transfer_bootstrap(results, n=10)
    weighted = (2 * resamples.split_gram[:, 0] + 3 * resamples.split_gram[:, 1]) / 5
    assert np.allclose(weighted, transfers(results).mean(0))
    assert transfer_bootstrap(noisy(exact, repeats=3, noise=0.05)) is None


def test_a_dataset_that_training_does_not_help_has_no_cosine_and_a_warning() -> None:
    results = quadratic(grouped_centers(5)[0], "source")
    after = results.after.copy()
    after[0, 3, 3] = 1.01 * results.base[0, 3]
    estimate = transfer_estimate(replace(results, after=after))
    assert np.isnan(estimate.cosine[3]).all() and not np.isnan(estimate.cosine[4, 5])
    assert any("set03" in warning for warning in estimate.warnings)
    doubtful = noisy(results, repeats=4, noise=0.5)
    assert any("from noise" in warning for warning in transfer_estimate(doubtful).warnings)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"after": np.nan}, "NaN or infinite"),
        ({"after": np.inf}, "NaN or infinite"),
        ({"base": np.nan}, "not a positive number"),
        ({"base": 0.0}, "not a positive number"),
    ],
)
def test_losses_that_are_no_numbers_are_refused_by_name(change: dict, text: str) -> None:
    base, after = np.ones((2, 3)), np.ones((2, 3, 3))
    if "after" in change:
        after[1, 2, 0] = change["after"]
    else:
        base[1, 0] = change["base"]
    with pytest.raises(AffinityError, match=text) as caught:
        TransferResults(["a", "b", "c"], "source", base, after)
    assert caught.value.where["repeat"] == 1 and caught.value.where["scored on"] == "a"
    assert caught.value.where.get("trained on") == ("c" if "after" in change else None)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(AffinityError, match="fit together"):
        TransferResults(["a", "b"], "source", np.ones((1, 2)), np.ones((1, 2, 3)))
    with pytest.raises(AffinityError, match="once"):
        TransferResults(["a", "a"], "source", np.ones((1, 2)), np.ones((1, 2, 2)))
    results = quadratic(grouped_centers(6)[0], "source")
    with pytest.raises(AffinityError, match="auto") as caught:
        transfer_version(results, AffinityConfig(groups="auto"))
    assert "transfer.seeds=4" in str(caught.value)
    with pytest.raises(AffinityError, match="single modules"):
        transfer_version(results, AffinityConfig(groups=2, modules={"projector": 1.0}))


def test_a_version_is_the_same_each_time_and_survives_disk_and_transport(tmp_path: Path) -> None:
    results = replace(noisy(quadratic(grouped_centers(7)[0], "pair"), 4, 0.01), source="s", cost={"seconds": 3.5})
    version = transfer_version(results, AffinityConfig(groups=3, bootstrap=20))
    assert transfer_version(results, AffinityConfig(groups=3, bootstrap=20)).inputs == version.inputs
    assert transfer_version(results, AffinityConfig(groups=2, bootstrap=20)).inputs != version.inputs
    save_version(tmp_path, version)
    loaded = load_version(tmp_path, method="transferability")
    assert loaded.id == version.id == parse_version(dump_version(version)).id
    assert loaded.cost == {"seconds": 3.5} and loaded.parameters["trainings"] == "pair"
    with pytest.raises(AffinityError, match="gradient"):
        load_version(tmp_path, method="gradient")


NAMES = ("a", "b", "c")


def header(trainings: str = "source", source: str = "0123456789abcdef") -> TransferHeader:
    return TransferHeader(source=source, datasets=NAMES, trainings=trainings, steps=5)


def line(trained_on: tuple[str, ...], repeat: int = 0, **losses: float) -> TransferLine:
    return TransferLine(trained_on=trained_on, repeat=repeat, losses=losses, cost={"steps": 5, "seconds": 0.5})


def test_results_land_where_they_belong(tmp_path: Path) -> None:
    log = TransferLog(tmp_path, header(), [line(BASE, a=1.0, b=2.0, c=3.0)])
    for number, (names, repeat) in enumerate(log.to_do(2)):
        log.append(line(names, repeat, a=number + 0.1, b=number + 0.2, c=number + 0.3))
    results = log.results(2)
    assert results.base.tolist() == [[1.0, 2.0, 3.0]] * 2
    assert results.after[0, 1].tolist() == [1.1, 1.2, 1.3] and results.after[1, 0].tolist() == [3.1, 3.2, 3.3]
    assert results.cost == {"steps": 35, "seconds": 3.5, "trainings": 6}
    assert log.results(1).cost["trainings"] == 3  # only what was used is paid for


def test_results_of_pairs_stand_beside_the_other_one(tmp_path: Path) -> None:
    log = TransferLog(tmp_path, header("pair"), [line(BASE, a=1.0, b=1.0, c=1.0)])
    for names, repeat in log.to_do(1):
        log.append(line(names, repeat, **{name: 0.1 * len(names) + 0.01 * NAMES.index(name) for name in names}))
    expected = np.full((3, 3), 0.2) - 0.1 * np.eye(3) + 0.01 * np.arange(3)
    assert np.allclose(log.results(1).after[0], expected)


def test_a_log_goes_on_where_it_stopped(tmp_path: Path) -> None:
    log, aside = open_log(tmp_path, header())
    assert aside is None and not log.is_complete(1)
    log.append(line(BASE, a=1.0, b=1.0, c=1.0))
    log.append(line(("a",), a=0.5, b=0.5, c=0.5))
    again, _ = open_log(tmp_path, header())
    assert again.lines == log.lines and again.to_do(1) == [(("b",), 0), (("c",), 0)]
    with pytest.raises(AffinityError, match="not all done") as caught:
        again.results(1)
    assert caught.value.got == "1 of 3"


def test_results_of_something_else_are_set_aside_and_found_again(tmp_path: Path) -> None:
    log, _ = open_log(tmp_path, header())
    log.append(line(BASE, a=1.0, b=1.0, c=1.0))
    other, aside = open_log(tmp_path, header(source="fedcba9876543210"))
    assert other.lines == [] and aside.read_text().count("\n") == 2
    back, aside = open_log(tmp_path, header())
    assert back.lines == log.lines and aside.name == "results-fedcba987654.jsonl"


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-5], lambda t: "", lambda t: t.replace("0.5", "NaN"), lambda t: t.replace("steps", "stebs")]
)
def test_a_damaged_log_is_refused(tmp_path: Path, damage) -> None:
    log, _ = open_log(tmp_path, header())
    log.append(line(BASE, a=0.5, b=1.0, c=1.0))
    log.path.write_text(damage(log.path.read_text()))
    with pytest.raises(AffinityError, match="cannot be read"):
        read_log(tmp_path)


def test_a_result_of_an_unknown_dataset_is_refused(tmp_path: Path) -> None:
    log = TransferLog(tmp_path, header(), [line(BASE, a=1.0, b=1.0, c=1.0)])
    for names, repeat in log.to_do(1):
        log.append(line(names, repeat, a=1.0, b=1.0, z=1.0))
    with pytest.raises(AffinityError, match="another dataset"):
        log.results(1)
    assert [json.loads(row).get("trained_on") for row in log.path.read_text().splitlines()][1:3] == [[], ["a"]]

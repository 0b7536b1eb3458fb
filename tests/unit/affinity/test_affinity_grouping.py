"""Groups found in planted structure, none found in noise, partitions and orders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pipeline.affinity.estimator import GradientStats, corrected_gram
from pipeline.affinity.grouping import (
    Grouping,
    domain_partition,
    explicit_partition,
    group_datasets,
    order_groups,
    random_partition,
    reorder_groups,
    similarity_of,
)
from pipeline.affinity.resample import bootstrap
from pipeline.errors import AffinityError


def found(truth, **options) -> Grouping:
    return group_datasets(corrected_gram(truth.stats), bootstrap(truth.stats, 40, seed=1), **options)


@pytest.mark.parametrize("metric", ["distance", "cosine"])
def test_auto_finds_the_planted_groups(planted: Callable, metric: str) -> None:
    for seed in range(4):
        truth = planted(seed, batches=32)
        grouping = found(truth, metric=metric)
        assert grouping.k == 3, grouping.verdict
        assert truth.agreement(grouping.groups) == 1.0
        assert grouping.gap_low > 0
        assert grouping.stability[3] == max(grouping.stability.values())
        assert max((2, 3, 4, 5), key=grouping.eigengap.__getitem__) == 3
        together = np.array(grouping.co_assignment)[truth.labels[:, None] == truth.labels]
        assert together.mean() > 0.9


HARD = {"noise": (3.0, 12.0), "noise_rank": 128}  # that of `gst bench affinity-structure`


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_auto_answers_one_group_where_there_is_no_structure(planted: Callable, own: float) -> None:
    groupings = [found(planted(seed, group=0.0, own=own, **HARD)) for seed in range(20)]
    assert sum(grouping.k == 1 for grouping in groupings) >= 19
    single = next(grouping for grouping in groupings if grouping.k == 1)
    assert len(single.groups[0]) == 14
    assert "Mix-all" in single.verdict
    assert np.shape(single.co_assignment) == (14, 14)
    assert single.silhouette.keys() == single.stability.keys() == {2, 3, 4, 5}
    assert single.eigengap.keys() == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(("batches", "least"), [(16, 17), (32, 19)])
def test_auto_finds_three_groups_through_strong_noise(planted: Callable, batches: int, least: int) -> None:
    """With 16 micro-batches 94 of 100 seeds give three groups, 92 exactly the planted ones."""
    truths = [planted(seed, batches=batches, **HARD) for seed in range(20)]
    assert sum(truth.agreement(found(truth).groups) == 1.0 for truth in truths) >= least


def test_evidence_is_held_out(planted: Callable) -> None:
    """Groups made from noise look apart on the data that made them; the reported gap must not."""
    gaps = [found(planted(seed, group=0.0, own=0.5), groups=3).gap for seed in range(10)]
    assert abs(np.mean(gaps)) < 0.25
    grouping = found(planted(0, group=0.0, own=0.5), groups=3)
    assert grouping.k == 3
    assert "no structure" in grouping.verdict


def test_a_named_number_of_groups_is_obeyed(planted: Callable) -> None:
    truth = planted(0, batches=32)
    estimate = corrected_gram(truth.stats)
    for k in (1, 2, 5, 14):
        grouping = group_datasets(estimate, None, groups=k)
        assert grouping.k == k
        assert sorted(name for group in grouping.groups for name in group) == truth.stats.datasets
        assert grouping.co_assignment is None
    assert group_datasets(estimate, None, groups=3).verdict.startswith("3 groups, as asked; there are no resampled")
    assert group_datasets(estimate, None, groups=3) == group_datasets(estimate, None, groups=3)


def test_two_datasets_are_one_group(planted: Callable) -> None:
    assert found(planted(0, sizes=(1, 1))).k == 1


def constant(value: float, d: int, batches: int = 6, k: int = 16) -> GradientStats:
    return GradientStats.from_batches({f"set{i}": np.full((batches, k), value) for i in range(d)})


@pytest.mark.parametrize("groups", [1, "auto"])
def test_one_dataset_is_one_group(groups: int | str) -> None:
    stats = constant(1.0, 1)
    for intervals in (bootstrap(stats, 10), None)[: 1 if groups == "auto" else 2]:
        grouping = group_datasets(corrected_gram(stats), intervals, groups=groups)
        assert grouping.groups == [["set0"]] and grouping.eigengap == {} and grouping.silhouette == {}


def test_two_datasets_can_be_two_groups_when_asked_for(planted: Callable) -> None:
    stats = planted(0, sizes=(1, 1)).stats
    grouping = group_datasets(corrected_gram(stats), bootstrap(stats, 10), groups=2)
    assert grouping.k == 2 and "every dataset is a group of its own" in grouping.verdict
    assert grouping.eigengap.keys() == {1}


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_datasets_with_the_same_gradient_have_no_structure(value: float) -> None:
    stats = constant(value, 8)
    estimate, intervals = corrected_gram(stats), bootstrap(stats, 20)
    grouping = group_datasets(estimate, intervals)
    assert grouping.k == 1 and "no structure" in grouping.verdict
    asked = group_datasets(estimate, intervals, groups=3)
    assert sorted(name for group in asked.groups for name in group) == stats.datasets
    assert asked.k <= 3 and ("3 groups, as asked" if asked.k == 3 else f"{asked.k} of 3 groups") in asked.verdict
    if value == 0:
        with pytest.raises(AffinityError, match="no cosine"):
            group_datasets(estimate, intervals, metric="cosine")


def test_gradients_far_apart_are_groups_though_no_similarity_joins_them() -> None:
    rows = {}
    for i in range(9):
        mean = np.zeros(16)
        mean[i // 3] = 1e4
        rows[f"set{i}"] = mean + np.random.default_rng(i).standard_normal((8, 16))
    stats = GradientStats.from_batches(rows)
    estimate = corrected_gram(stats)
    upper = np.triu_indices(9, 1)
    estimate = replace(estimate, gram=estimate.gram * np.where(np.eye(3).repeat(3, 0).repeat(3, 1), 1, -1e3))
    assert similarity_of(estimate, "distance")[upper].min() > 0
    for grouping in (group_datasets(estimate, None, groups=3), group_datasets(estimate, bootstrap(stats, 20))):
        assert sorted(map(sorted, grouping.groups)) == [[f"set{3 * g + i}" for i in range(3)] for g in range(3)]


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_groups_do_not_depend_on_the_unit_of_gradients(planted: Callable, size: float) -> None:
    truth = planted(0, batches=32)
    scaled = GradientStats.from_batches({n: size * b for n, b in zip(NAMES, truth.stats.batches, strict=True)})
    estimate = corrected_gram(scaled)
    assert truth.agreement(group_datasets(estimate, bootstrap(scaled, 20)).groups) == 1.0
    mostly_equal = replace(estimate, gram=np.where(np.eye(14), size**2, size**2) + 0.0)
    mostly_equal.gram[0, 0] *= 9
    assert sorted(map(len, group_datasets(mostly_equal, None, groups=2).groups)) == [1, 13]


def test_similarities_follow_the_method(planted: Callable) -> None:
    estimate = corrected_gram(planted(0, batches=32).stats)
    upper = np.triu_indices(14, 1)
    distance = np.clip(estimate.distance_sq, 0, None)
    assert np.allclose(
        similarity_of(estimate, "distance")[upper], np.exp(-distance / np.median(distance[upper]))[upper]
    )
    assert np.allclose(similarity_of(estimate, "cosine"), (1 + estimate.cosine) / 2)


def test_wrong_requests_are_refused(planted: Callable) -> None:
    estimate = corrected_gram(planted(0).stats)
    with pytest.raises(AffinityError, match="number of groups"):
        group_datasets(estimate, None, groups=15)
    with pytest.raises(AffinityError, match="resamples"):
        group_datasets(estimate, None, groups="auto")
    with pytest.raises(AffinityError, match="metric"):
        group_datasets(estimate, None, groups=2, metric="euclid")
    with pytest.raises(AffinityError, match="order"):
        group_datasets(estimate, None, groups=2, order="upwards")
    blurred = replace(estimate, cosine=np.where(np.arange(14) == 3, np.nan, estimate.cosine))
    with pytest.raises(AffinityError, match="set03"):
        group_datasets(blurred, None, groups=2, metric="cosine")


NAMES = [f"set{i:02d}" for i in range(14)]


def test_random_partitions_match_sizes_and_depend_on_seed_and_names_only() -> None:
    made = {seed: random_partition(NAMES, [6, 5, 3], seed) for seed in range(5)}
    for partition in made.values():
        assert [len(group) for group in partition] == [6, 5, 3]
        assert sorted(name for group in partition for name in group) == NAMES
    assert made[0] == random_partition(NAMES[::-1], [6, 5, 3], 0)
    assert len({str(partition) for partition in made.values()}) == 5
    with pytest.raises(AffinityError, match="sizes"):
        random_partition(NAMES, [6, 5], 0)


def test_domain_and_explicit_partitions() -> None:
    domains = {"macs": "sound", "iemocap": "speech", "musicnet": "music", "clotho": "sound"}
    assert domain_partition(domains) == [["iemocap"], ["musicnet"], ["clotho", "macs"]]
    assert explicit_partition([["b"], ["a", "c"]], ["a", "b", "c"]) == [["b"], ["a", "c"]]
    for wrong in ([["a"]], [["a", "b"], ["b", "c"]], [["a", "b", "c", "d"]], [["a", "b", "c"], []]):
        with pytest.raises(AffinityError, match="exactly once"):
            explicit_partition(wrong, ["a", "b", "c"])


# a and b are the most useful to all, then c; but c hurts the pool {a, b}, which d helps.
HAND_MADE = np.array(
    [
        [4.0, 3.0, -1.0, 1.0],
        [3.0, 4.0, -1.0, 1.0],
        [-1.0, -1.0, 6.0, 2.0],
        [1.0, 1.0, 2.0, 0.1],
    ]
)


def test_orders_on_a_hand_made_gram() -> None:
    groups = [["c"], ["d"], ["a", "b"]]
    assert order_groups(HAND_MADE, list("abcd"), groups) == [["a", "b"], ["d"], ["c"]]
    assert order_groups(HAND_MADE, list("abcd"), groups, "reverse") == [["c"], ["d"], ["a", "b"]]
    assert order_groups(HAND_MADE, list("abcd"), groups, "explicit") == groups
    shuffled = [order_groups(HAND_MADE, list("abcd"), groups, "random", seed=seed) for seed in range(20)]
    assert all(sorted(each) == sorted(groups) for each in shuffled)
    assert len({str(each) for each in shuffled}) > 2
    assert shuffled[3] == order_groups(HAND_MADE, list("abcd"), groups, "random", seed=3)


def test_progressive_order_ranks_again_after_each_choice_and_heeds_weights() -> None:
    use_to_all = HAND_MADE.mean(1)
    assert use_to_all[0] > use_to_all[2] > use_to_all[3]
    assert order_groups(HAND_MADE, list("abcd"), [["c"], ["d"], ["a"], ["b"]]) == [["a"], ["b"], ["d"], ["c"]]
    # A world that is nearly only c starts with c, then what helps c.
    weights = {"a": 1.0, "b": 1.0, "c": 50.0, "d": 1.0}
    ordered = order_groups(HAND_MADE, list("abcd"), [["a", "b"], ["c"], ["d"]], weights=weights)
    assert ordered == [["c"], ["d"], ["a", "b"]]


def test_reordering_stored_groups() -> None:
    groups = [["a"], ["b"], ["c"]]
    assert reorder_groups(groups, "progressive") == groups
    assert reorder_groups(groups, "reverse") == groups[::-1]
    assert reorder_groups(groups, "random", 1) == reorder_groups(groups, "random", 1)
    with pytest.raises(AffinityError, match="order"):
        reorder_groups(groups, "sideways")


def test_grouping_goes_through_json(planted: Callable) -> None:
    grouping = found(planted(0), groups=3)
    assert Grouping.from_json(json.loads(json.dumps(grouping.to_json(), allow_nan=False))) == grouping

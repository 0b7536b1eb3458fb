"""Groups found in planted structure, none found in noise, partitions and orders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from pipeline.affinity.estimator import corrected_gram
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


def agreement(truth, grouping: Grouping) -> float:
    label = {name: i for i, group in enumerate(grouping.groups) for name in group}
    return adjusted_rand_score(truth.labels, [label[name] for name in truth.stats.datasets])


@pytest.mark.parametrize("metric", ["distance", "cosine"])
def test_auto_finds_the_planted_groups(planted: Callable, metric: str) -> None:
    for seed in range(4):
        truth = planted(seed, batches=32)
        grouping = found(truth, metric=metric)
        assert grouping.k == 3, grouping.verdict
        assert agreement(truth, grouping) == 1.0
        assert grouping.gap_low > 0
        assert grouping.stability[3] == max(grouping.stability.values())
        assert max((2, 3, 4, 5), key=grouping.eigengap.__getitem__) == 3
        together = np.array(grouping.co_assignment)[truth.labels[:, None] == truth.labels]
        assert together.mean() > 0.9


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_auto_answers_one_group_where_there_is_no_structure(planted: Callable, own: float) -> None:
    groupings = [found(planted(seed, group=0.0, own=own)) for seed in range(10)]
    assert sum(grouping.k == 1 for grouping in groupings) >= 9
    single = next(grouping for grouping in groupings if grouping.k == 1)
    assert len(single.groups[0]) == 14
    assert "Mix-all" in single.verdict
    assert np.shape(single.co_assignment) == (14, 14)


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
    assert group_datasets(estimate, None, groups=3).verdict.startswith("3 groups, as asked; without resampled")
    assert group_datasets(estimate, None, groups=3) == group_datasets(estimate, None, groups=3)


def test_two_datasets_are_one_group(planted: Callable) -> None:
    assert found(planted(0, sizes=(1, 1))).k == 1


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

"""What the page gets: order, boxes, intervals, maps and comparisons, also of awkward versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import squareform

from pipeline.affinity.compute import compute_version
from pipeline.affinity.estimator import GradientStats, corrected_gram, cosine_of, distance_of
from pipeline.affinity.grouping import Grouping
from pipeline.affinity.layout import arrange, similarity_map
from pipeline.affinity.versions import AffinityVersion, make_version
from pipeline.affinity.view import compare_versions, version_view
from pipeline.config.schema import AffinityConfig
from pipeline.errors import AffinityError

Plant = Callable[..., Any]


def version_of(planted: Plant, seed: int = 0, groups: Any = 3, bootstrap: int = 20, **options: Any) -> AffinityVersion:
    return compute_version(planted(seed, **options).stats, AffinityConfig(groups=groups, bootstrap=bootstrap))


def regrouped(version: AffinityVersion, groups: list[list[str]], **changes: Any) -> AffinityVersion:
    return replace(version, grouping=Grouping(groups=groups, **changes))


def full(triangle: list[list[float | None]]) -> np.ndarray:
    """The symmetric matrix of a lower triangle; None becomes NaN."""
    matrix = np.full((len(triangle), len(triangle)), np.nan)
    for i, row in enumerate(triangle):
        assert len(row) == i + 1
        matrix[i, : i + 1] = matrix[: i + 1, i] = [np.nan if value is None else value for value in row]
    return matrix


def rows_of(view: dict[str, Any], version: AffinityVersion) -> list[int]:
    return [version.datasets.index(dataset["name"]) for dataset in view["datasets"]]


def as_json(view: dict[str, Any]) -> str:
    return json.dumps(view, allow_nan=False)


@pytest.mark.parametrize("metric", ["distance", "cosine", "gram"])
def test_the_matrix_is_that_of_the_version_in_the_order_shown(planted: Plant, metric: str) -> None:
    version = version_of(planted)
    view = version_view(version, metric)  # type: ignore[arg-type]
    rows = rows_of(view, version)
    estimate = version.estimate
    expected = {"distance": estimate.distance_sq, "cosine": estimate.cosine, "gram": estimate.gram}[metric]
    np.testing.assert_allclose(full(view["matrix"]), expected[np.ix_(rows, rows)], rtol=1e-4, atol=1e-12)
    assert sorted(rows) == list(range(14)) and json.loads(as_json(view)) == view


def test_intervals_come_with_their_pairs_and_hold_the_values_mostly(planted: Plant) -> None:
    version = version_of(planted, bootstrap=60)
    view = version_view(version)
    rows = rows_of(view, version)
    low, high = full(view["low"]), full(view["high"])
    np.testing.assert_allclose(low, version.intervals["distance_low"][np.ix_(rows, rows)], rtol=1e-4, atol=1e-12)
    pairs = np.tril_indices(14, -1)
    value = full(view["matrix"])
    assert np.mean((low <= value)[pairs] & (value <= high)[pairs]) > 0.8 and view["level"] == 0.95
    assert version_view(version, "gram")["low"] is None and version_view(version, "gram")["high"] is None


def test_groups_are_boxes_and_every_branch_of_a_group_stays_inside_its_box(planted: Plant) -> None:
    version = version_of(planted)
    # Groups that the distances do not support: a plain dendrogram would tear them apart.
    names = version.datasets
    view = version_view(regrouped(version, [names[0::3], names[1::3], names[2::3]]))
    boxes = {box["number"]: box for box in view["groups"]}
    assert sorted(boxes) == [0, 1, 2] and sum(box["size"] for box in boxes.values()) == 14
    for number, box in boxes.items():
        inside = view["datasets"][box["start"] : box["start"] + box["size"]]
        assert {dataset["group"] for dataset in inside} == {number}
    assert len(view["dendrogram"]) == 13
    for left, left_height, right, right_height, height, group in view["dendrogram"]:
        assert left < right and height >= max(left_height, right_height)
        if group is not None:
            box = boxes[group]
            assert box["start"] <= left and right <= box["start"] + box["size"] - 1


def test_inside_one_group_the_dendrogram_is_average_linkage() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((9, 3))
    distance = np.square(points[:, None] - points[None]).sum(2)
    placed = arrange(distance, [list(range(9))])
    tree = linkage(squareform(distance, checks=False), "average")
    np.testing.assert_allclose([merge.height for merge in placed.merges], tree[:, 2])
    # Neighbours in the order are joined low: their mean height is below that of all pairs.
    joined = squareform(cophenet(tree))[np.ix_(placed.order, placed.order)]
    assert np.diag(joined, 1).mean() < joined[np.triu_indices(9, 1)].mean()


def test_the_map_shows_points_of_a_plane_exactly() -> None:
    rng = np.random.default_rng(1)
    points = rng.standard_normal((12, 2)) * [3.0, 1.0]
    distance = np.square(points[:, None] - points[None]).sum(2)
    found, share = similarity_map(distance)
    np.testing.assert_allclose(np.square(found[:, None] - found[None]).sum(2), distance, atol=1e-9)
    assert share == pytest.approx(1.0) and np.ptp(found[:, 0]) > np.ptp(found[:, 1])
    assert (found[np.abs(found).argmax(0), [0, 1]] > 0).all()


def test_the_map_of_equal_or_single_datasets_is_a_point() -> None:
    for d in (1, 2, 5):
        found, share = similarity_map(np.zeros((d, d)))
        assert found.shape == (d, 2) and not found.any() and share == 0.0


def test_negative_distances_and_undefined_cosines_are_shown_as_they_are(planted: Plant) -> None:
    version = version_of(planted, noise=(20.0, 40.0), batches=8)
    assert (version.estimate.distance_sq < 0).any() and np.isnan(version.estimate.cosine).any()
    distance, cosine = version_view(version), version_view(version, "cosine")
    assert np.nanmin(full(distance["matrix"])) < 0
    rows = rows_of(cosine, version)
    missing = np.isnan(version.estimate.cosine[np.ix_(rows, rows)])
    np.testing.assert_array_equal(np.isnan(full(cosine["matrix"])), missing)
    for view in (distance, cosine):
        as_json(view)
        assert all(merge[4] >= 0 for merge in view["dendrogram"])
        diagonal = {name: version.estimate.gram[i, i] for i, name in enumerate(version.datasets)}
        for dataset in view["datasets"]:
            assert (dataset["norm"] is None) == (diagonal[dataset["name"]] <= 0) == (dataset["noise_scale"] is None)


def test_a_module_has_its_own_numbers_and_no_intervals(planted: Plant) -> None:
    version = version_of(planted)
    other = planted(5).gram
    version = replace(version, modules={"lora_a": other, "aligner": version.estimate.gram})
    view = version_view(version, "cosine", "lora_a")
    rows = rows_of(view, version)
    assert view["modules"] == ["aligner", "lora_a"] and view["module"] == "lora_a"
    np.testing.assert_allclose(full(view["matrix"]), cosine_of(other)[np.ix_(rows, rows)], rtol=1e-4)
    assert view["low"] is None and view["high"] is None
    distance = version_view(version, "distance", "lora_a")
    order = rows_of(distance, version)
    np.testing.assert_allclose(full(distance["matrix"]), distance_of(other)[np.ix_(order, order)], rtol=1e-4, atol=1e-9)
    assert {d["name"]: d["group"] for d in view["datasets"]} == {
        name: number for number, group in enumerate(version.groups) for name in group
    }
    with pytest.raises(AffinityError, match="no view of such a module") as caught:
        version_view(version, "distance", "lora_b")
    assert "lora_a" in str(caught.value)
    with pytest.raises(AffinityError, match="unknown affinity metric"):
        version_view(version, "euclid")  # type: ignore[arg-type]


def test_a_version_without_intervals_or_resamples(planted: Plant) -> None:
    version = version_of(planted)
    bare = replace(
        version, intervals={}, parameters={}, reliability=None,
        grouping=replace(version.grouping, stability={}, silhouette={}, co_assignment=None, gap=None),
    )  # fmt: skip
    view = version_view(bare)
    assert view["low"] is None and view["level"] is None and view["stability"]["co_assignment"] is None
    assert {d["confidence"] for d in view["datasets"]} == {None} == {d["batches"] for d in view["datasets"]}
    as_json(view)


def test_confidence_says_how_often_the_resamples_keep_a_dataset_with_its_group(planted: Plant) -> None:
    version = version_of(planted, sizes=(2, 1, 2))
    names = version.datasets
    together = np.eye(5)
    for i, j, share in ((0, 1, 0.9), (0, 2, 0.1), (1, 2, 0.2), (3, 4, 1.0), (2, 3, 0.3)):
        together[i, j] = together[j, i] = share
    groups = [[names[0], names[1]], [names[2]], [names[3], names[4]]]
    view = version_view(regrouped(version, groups, co_assignment=together.tolist()))
    found = {d["name"]: (d["confidence"], d["rival"], d["rival_share"]) for d in view["datasets"]}
    assert found[names[0]] == (0.9, 1, 0.1)
    assert found[names[1]] == (0.9, 1, 0.2)
    assert found[names[2]] == (0.7, 0, 0.15)  # alone: what its closest companion, 0.3, leaves over
    assert found[names[3]] == (1.0, 1, 0.3)
    order = rows_of(view, version)
    np.testing.assert_allclose(full(view["stability"]["co_assignment"]), together[np.ix_(order, order)])


def test_stability_lists_every_number_of_groups_that_was_tried(planted: Plant) -> None:
    version = version_of(planted, groups="auto")
    stability = version_view(version)["stability"]
    assert stability["chosen"] == version.grouping.k
    by_k = {row["k"]: row for row in stability["rows"]}
    assert set(version.grouping.stability) <= set(by_k) and by_k[1]["stability"] is None
    for k, value in version.grouping.stability.items():
        assert by_k[k]["stability"] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("sizes", [(1, 1), (400, 300, 300)], ids=["2 datasets", "1,000 datasets"])
def test_few_and_many_datasets(planted: Plant, sizes: tuple[int, ...]) -> None:
    stats = planted(0, sizes=sizes, k=64, batches=4).stats
    groups = np.split(np.array(stats.datasets), np.cumsum(sizes)[:-1])
    version = make_version(stats, corrected_gram(stats), None, Grouping(groups=[list(map(str, g)) for g in groups]))
    for metric in ("distance", "cosine", "gram"):
        view = version_view(version, metric)  # type: ignore[arg-type]
        assert len(view["datasets"]) == len(view["matrix"]) == sum(sizes)
        as_json(view)
    assert compare_versions(version, version)["moved"] == []


def test_one_group_is_one_box_and_nobody_is_unsure(planted: Plant) -> None:
    view = version_view(version_of(planted, groups=1))
    assert view["groups"] == [{"number": 0, "start": 0, "size": 14}]
    assert all(merge[5] in (0, None) for merge in view["dendrogram"])
    assert {dataset["confidence"] for dataset in view["datasets"]} == {None}


def test_a_version_compared_with_itself_does_not_change(planted: Plant) -> None:
    version = version_of(planted)
    same = compare_versions(version, version)
    assert same["adjusted_rand_index"] == 1.0 and same["rank_correlation"] == 1.0 and same["moved"] == []
    assert same["matched"] == [0, 1, 2] and same["only_in_a"] == same["only_in_b"] == []
    assert not np.any(full(same["difference"]))
    assert same["shared"] == [dataset["name"] for dataset in version_view(version)["datasets"]]


def test_who_moved_does_not_depend_on_how_groups_are_numbered(planted: Plant) -> None:
    version = version_of(planted)
    a, b, c = ([f"set{i:02d}" for i in members] for members in (range(5), range(5, 10), range(10, 14)))
    before = regrouped(version, [a, b, c])
    after = regrouped(version, [c, [*b, a[0]], a[1:]])
    found = compare_versions(before, after)
    assert found["matched"] == [2, 1, 0]
    assert found["moved"] == [{"dataset": "set00", "from": 0, "to": 1}]
    assert found["flow"] == [[0, 1, 4], [0, 5, 0], [4, 0, 0]]
    assert 0 < found["adjusted_rand_index"] < 1


def test_a_group_that_was_split_has_moved_members_and_a_vanished_one_no_match(planted: Plant) -> None:
    version = version_of(planted)
    names = version.datasets
    one, three = regrouped(version, [names]), regrouped(version, [names[:8], names[8:12], names[12:]])
    split = compare_versions(one, three)
    assert split["matched"] == [0] and {move["dataset"] for move in split["moved"]} == set(names[8:])
    merged = compare_versions(three, one)
    assert merged["matched"] == [0, None, None] and {move["dataset"] for move in merged["moved"]} == set(names[8:])


def test_differences_are_in_medians_so_a_grown_gradient_changes_nothing(planted: Plant) -> None:
    stats = planted(0).stats
    options = AffinityConfig(groups=3, bootstrap=10)
    grown = GradientStats.from_batches({n: 3.0 * b for n, b in zip(stats.datasets, stats.batches, strict=True)})
    a, b = compute_version(stats, options), compute_version(grown, options)
    found = compare_versions(a, b)
    assert np.abs(full(found["difference"])).max() < 1e-9 and found["rank_correlation"] == pytest.approx(1.0)
    assert np.median(full(found["a"]["matrix"])[np.tril_indices(14, -1)]) == pytest.approx(1.0, rel=1e-3)
    assert not found["same_spec"]


def test_versions_with_other_datasets_are_compared_where_they_meet(planted: Plant) -> None:
    stats = planted(0).stats
    options = AffinityConfig(groups=2, bootstrap=10)
    few = compute_version(stats.select(stats.datasets[:6]), options)
    many = compute_version(stats, options)
    found = compare_versions(few, many)
    assert found["only_in_a"] == [] and found["only_in_b"] == stats.datasets[6:]
    assert sorted(found["shared"]) == stats.datasets[:6] and len(found["difference"]) == 6
    one = compare_versions(compute_version(stats.select(stats.datasets[:2]), options),
                           compute_version(stats.select(stats.datasets[1:4]), options))  # fmt: skip
    assert one["shared"] == ["set01"] and one["adjusted_rand_index"] is None and one["rank_correlation"] is None
    nothing = compare_versions(few, compute_version(stats.select(stats.datasets[8:]), options))
    assert nothing["shared"] == [] and nothing["moved"] == [] and nothing["difference"] == []
    for each in (found, one, nothing):
        as_json(each)

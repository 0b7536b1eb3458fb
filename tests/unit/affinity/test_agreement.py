"""Agreement of affinity views: values worked out by hand, planted groups, and views that cannot be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.affinity.agreement import AffinityView, compare_views, view_of, write_views
from pipeline.affinity.compute import compute_version
from pipeline.affinity.estimator import cosine_of, distance_of
from pipeline.affinity.versions import AffinityVersion
from pipeline.config.schema import AffinityConfig
from pipeline.errors import AffinityError
from tests.planted import Planted, plant

FEW = AffinityConfig(groups=3, bootstrap=20)


def view(name: str, pairs: dict[str, float], groups: list[str]) -> AffinityView:
    """`{"ab": 1.0}`: similarity of a and b; the groups as strings of names of one letter."""
    names = sorted({letter for pair in pairs for letter in pair})
    matrix = np.full((len(names), len(names)), np.nan)
    for pair, value in pairs.items():
        i, j = (names.index(letter) for letter in pair)
        matrix[i, j] = matrix[j, i] = value
    return AffinityView(name, names, matrix, [list(group) for group in groups])


ALIKE = {"ab": 6.0, "cd": 5.0, "ac": 4.0, "bd": 3.0, "ad": 2.0, "bc": 1.0}


def version_of(planted: Planted, options: AffinityConfig = FEW) -> AffinityVersion:
    return compute_version(planted.stats, options)


def test_numbers_worked_out_by_hand() -> None:
    swapped = {**ALIKE, "ab": 5.0, "cd": 6.0}
    found = compare_views(view("x", ALIKE, ["ab", "cd"]), view("y", swapped, ["abc", "d"]))
    # 4 datasets, pairs together: 2, 3 and 1 in both; by chance 2 * 3 / 6 = 1 of at most (2 + 3) / 2.
    assert found.ari == pytest.approx((1 - 1) / (2.5 - 1))
    # Two ranks differ by one: 1 - 6 * 2 / (6 * (36 - 1)).
    assert found.spearman == pytest.approx(1 - 12 / 210)
    assert (found.a, found.b, found.n_pairs) == ("x", "y", 6)
    same = compare_views(view("x", ALIKE, ["ab", "cd"]), view("y", {p: v**3 for p, v in ALIKE.items()}, ["cd", "ab"]))
    assert (same.ari, same.spearman) == (1.0, pytest.approx(1.0))
    opposite = compare_views(view("x", ALIKE, ["ab", "cd"]), view("y", {p: -v for p, v in ALIKE.items()}, ["ac", "bd"]))
    assert opposite.spearman == pytest.approx(-1.0) and opposite.spearman_p == 1.0
    assert opposite.ari == pytest.approx((0 - 2 / 3) / (2 - 2 / 3))


def test_the_permutation_test_counts_all_ways_to_name_the_datasets() -> None:
    """Of the 3 ways to put four names into two pairs one is the same, so a third of all permutations agree as well."""
    found = compare_views(view("x", ALIKE, ["ab", "cd"]), view("y", ALIKE, ["ab", "cd"]), permutations=4000)
    assert found.ari_p == pytest.approx(1 / 3, abs=0.03)
    assert found.spearman_p == pytest.approx(1 / 24, abs=0.02), "only one order of the names gives these ranks"


def test_datasets_that_only_one_view_has_do_not_count() -> None:
    more = {**ALIKE, "ae": 9.0, "be": 9.0, "ce": 9.0, "de": 9.0}
    one, other = view("x", more, ["abe", "cd"]), view("y", ALIKE, ["ab", "cd"])
    found = compare_views(one, other)
    assert (found.ari, found.spearman, found.n_pairs) == (1.0, pytest.approx(1.0), 6)
    assert compare_views(other, one).spearman == pytest.approx(1.0)


def test_undefined_pairs_are_left_out_and_counted() -> None:
    partly = view("y", {pair: np.nan if "d" in pair else value for pair, value in ALIKE.items()}, ["ab", "c"])
    found = compare_views(view("x", ALIKE, ["ab", "cd"]), partly)
    assert (found.n_pairs, found.spearman) == (3, pytest.approx(1.0))
    assert found.ari == 1.0 and found.spearman_p is not None, "a, b and c are placed by both"
    one_pair = view("y", {**ALIKE, "ab": np.nan}, ["ab", "cd"])
    found = compare_views(view("x", ALIKE, ["ab", "cd"]), one_pair)
    assert found.n_pairs == 5 and found.spearman == pytest.approx(1.0) and found.spearman_p is None


@pytest.mark.parametrize("groups", [["abcd"], ["a", "b", "c", "d"], []])
def test_groups_that_say_nothing_have_no_index(groups: list[str]) -> None:
    found = compare_views(view("x", ALIKE, groups), view("y", ALIKE, groups))
    assert found.ari is None and found.ari_p is None and found.spearman == pytest.approx(1.0)


def test_too_few_or_equal_pairs_have_no_correlation() -> None:
    two = view("x", {"ab": 1.0}, ["a", "b"])
    assert (compare_views(two, two).spearman, compare_views(two, two).n_pairs) == (None, 1)
    flat = view("y", dict.fromkeys(ALIKE, 1.0), ["ab", "cd"])
    assert compare_views(view("x", ALIKE, ["ab", "cd"]), flat).spearman is None
    nothing = view("y", dict.fromkeys(ALIKE, np.nan), [])
    assert compare_views(view("x", ALIKE, ["ab", "cd"]), nothing).n_pairs == 0
    with pytest.raises(AffinityError, match="symmetric"):
        AffinityView("z", ["a", "b"], np.array([[0.0, 1.0], [2.0, 0.0]]), [])


def test_views_of_one_probe_find_its_groups_and_the_correction_shows() -> None:
    planted = plant(0, group=2.0, noise=(0.5, 8.0), batches=16)
    version = version_of(planted)
    views = {
        "distance": view_of(version, "distance", "distance", 3),
        "cosine": view_of(version, "cosine", "cosine", 3),
        "distance_raw": view_of(version, "distance_raw", "distance", 3, corrected=False),
    }
    assert sorted(map(sorted, views["distance"].groups)) == sorted(map(sorted, version.groups))
    assert planted.agreement(views["distance"].groups) == 1.0
    truth = AffinityView("truth", version.datasets, -distance_of(planted.gram), version.groups)
    right, wrong = (compare_views(truth, views[name]) for name in ("distance", "distance_raw"))
    assert right.spearman is not None and wrong.spearman is not None
    assert right.spearman > wrong.spearman + 0.1 and right.spearman_p == 0.001
    assert views["distance"].reliability == version.reliability and views["distance_raw"].reliability is None
    assert {each.version for each in views.values()} == {version.id}


def test_an_uncorrected_view_is_of_the_plain_means() -> None:
    planted = plant(1, noise=(2.0, 4.0))
    view = view_of(version_of(planted), "raw", "cosine", 3, corrected=False)
    means = planted.stats.sum / planted.stats.count[:, None]
    assert np.allclose(view.similarity, cosine_of(means @ means.T))


def test_datasets_without_a_direction_are_in_no_group() -> None:
    planted = plant(2, group=2.0, noise=(0.5, 1.0))
    batches = dict(zip(planted.stats.datasets, planted.stats.batches or [], strict=True))
    rows = batches["set03"]
    batches["set03"] = 5 * (rows - rows.mean(0))  # noise alone
    version = compute_version(type(planted.stats).from_batches(batches, spec={"k": 512}), FEW)
    view = view_of(version, "cosine", "cosine", 3)
    assert "set03" not in {name for group in view.groups for name in group} and "set03" in view.note
    found = compare_views(view_of(version, "distance", "distance", 3), view)
    assert found.n_pairs == 13 * 12 // 2 and found.spearman is not None and found.spearman_p is not None


def test_the_file_holds_views_pairs_and_what_is_missing(tmp_path: Path) -> None:
    version = version_of(plant(3))
    views = [view_of(version, "distance", "distance", 2), view_of(version, "cosine", "cosine", 2, note="n")]
    path = tmp_path / "new" / "agreement.json"
    write_views(path, [replace(views[0], cost={"seconds": 2.0, "steps": 3}), *views[1:]], missing=["transferability"])
    content = json.loads(path.read_text())
    assert content["missing"] == ["transferability"] and len(content["pairs"]) == 1
    assert content["views"][0] | {"groups": []} == {
        "name": "distance",
        "version": version.id,
        "groups": [],
        "cost": {"seconds": 2.0, "samples": None},
        "reliability": version.reliability,
        "note": "",
    }
    assert [len(each["groups"]) for each in content["views"]] == [2, 2]
    assert set(content["pairs"][0]) == {"a", "b", "ari", "spearman", "n_pairs", "ari_p", "spearman_p"}
    write_views(path, [], missing=["distance"])
    assert json.loads(path.read_text()) == {"views": [], "pairs": [], "permutations": 999, "missing": ["distance"]}

"""Which affinity version a plan takes when one experiment has versions of both methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.affinity.compute import compute_version
from pipeline.affinity.estimator import GradientStats
from pipeline.affinity.transfer import TransferResults, transfer_version
from pipeline.affinity.versions import save_version
from pipeline.config import Recipe, parse_recipe
from pipeline.config.schema import AffinityConfig
from pipeline.errors import AffinityError, ConfigError
from pipeline.schedule import build_plan

SIZES = dict.fromkeys("abcd", 100)
DOMAINS = dict.fromkeys("abcd", "sound")


def make_recipe(affinity: Path | None, **schedule: str) -> Recipe:
    tree = {
        "arm": "x", "out": "o", "model": {"path": "m"}, "data": {"shards": "s"}, "train": {"max_steps": 10},
        "schedule": {"regime": "gst", "affinity": None if affinity is None else str(affinity), **schedule},
    }  # fmt: skip
    return parse_recipe(tree, source="test")


def entering(affinity: Path, **schedule: str) -> list[list[str]]:
    return [sorted(stage.entering) for stage in build_plan(make_recipe(affinity, **schedule), SIZES, DOMAINS).stages]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "affinity"


@pytest.fixture
def by_transfer(folder: Path) -> str:
    """Two groups of two, {a, c} and {b, d}; saved first."""
    after = np.ones((1, 4, 4))
    for one, other in (("a", "c"), ("b", "d")):
        rows = ["abcd".index(one), "abcd".index(other)]
        after[0][np.ix_(rows, rows)] = 0.5
    results = TransferResults(list("abcd"), "source", np.ones((1, 4)), after)
    return save_version(folder, transfer_version(results, AffinityConfig(method="transferability", groups=2)))


@pytest.fixture
def by_gradient(folder: Path, by_transfer: str) -> str:
    """Groups {a} and {b, c, d}; saved last, so `latest`."""
    rng = np.random.default_rng(0)
    direction = {name: np.eye(8)[0 if name == "a" else 1] for name in "abcd"}
    rows = {name: direction[name] + 0.05 * rng.standard_normal((8, 8)) for name in "abcd"}
    return save_version(folder, compute_version(GradientStats.from_batches(rows), AffinityConfig(groups=2)))


def test_each_grouping_takes_the_latest_version_of_its_method(folder: Path, by_transfer: str, by_gradient: str) -> None:
    assert sorted(entering(folder, grouping="transferability")) == [["a", "c"], ["b", "d"]]
    assert sorted(entering(folder, grouping="gradient")) == [["a"], ["b", "c", "d"]]
    plan = build_plan(make_recipe(folder, grouping="transferability"), SIZES, DOMAINS)
    assert plan.affinity_version == by_transfer


def test_random_groups_match_the_version_that_is_named(folder: Path, by_transfer: str, by_gradient: str) -> None:
    def sizes(**schedule: str) -> list[int]:
        return sorted(len(group) for group in entering(folder, grouping="random", **schedule))

    assert sizes() == sizes(version=by_gradient) == [1, 3]
    assert sizes(version=by_transfer) == [2, 2]


def test_a_pinned_version_of_the_other_method_is_refused(folder: Path, by_transfer: str, by_gradient: str) -> None:
    with pytest.raises(ConfigError, match="another method") as caught:
        entering(folder, grouping="transferability", version=by_gradient)
    assert (caught.value.got, caught.value.expected) == ("gradient", "transferability")
    with pytest.raises(ConfigError, match="another method"):
        entering(folder, grouping="gradient", version=by_transfer)


def test_a_method_that_was_not_run_is_named(folder: Path, by_transfer: str) -> None:
    with pytest.raises(AffinityError, match="made by gradient"):
        entering(folder, grouping="gradient")
    with pytest.raises(ConfigError) as caught:
        build_plan(make_recipe(None, grouping="transferability"), SIZES, DOMAINS)
    assert "gst transfer" in str(caught.value)

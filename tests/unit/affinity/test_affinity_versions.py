"""Versions and probes on disk: immutable, verified, whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.affinity.estimator import GradientStats, corrected_gram
from pipeline.affinity.grouping import group_datasets
from pipeline.affinity.resample import bootstrap
from pipeline.affinity.versions import (
    AffinityVersion,
    find_version,
    has_versions,
    inputs_digest,
    load_probe,
    load_version,
    make_version,
    save_probe,
    save_version,
)
from pipeline.cli.group import group
from pipeline.errors import AffinityError


@pytest.fixture
def stats(planted: Callable) -> GradientStats:
    return replace(planted(0).stats, source="abc", cost={"seconds": 1.5})


def version_of(stats: GradientStats, groups: int = 3) -> AffinityVersion:
    estimate, intervals = corrected_gram(stats), bootstrap(stats, 20)
    return make_version(stats, estimate, intervals, group_datasets(estimate, intervals, groups=groups))


def test_a_version_comes_back_as_it_was(stats: GradientStats, tmp_path: Path) -> None:
    version = version_of(stats)
    assert not has_versions(tmp_path)
    name = save_version(tmp_path / "deep" / "affinity", version)
    loaded = load_version(tmp_path / "deep" / "affinity", name)
    assert has_versions(tmp_path / "deep" / "affinity")
    assert loaded.id == version.id == name
    assert (loaded.groups, loaded.verdict, loaded.grouping) == (version.groups, version.verdict, version.grouping)
    for item in fields(version.estimate):
        left, right = getattr(loaded.estimate, item.name), getattr(version.estimate, item.name)
        assert np.array_equal(left, right, equal_nan=True) if isinstance(left, np.ndarray) else left == right
    assert all(np.array_equal(loaded.intervals[key], value, equal_nan=True) for key, value in version.intervals.items())
    plain = ("datasets", "spec", "source", "parameters", "cost", "reliability", "created")
    assert all(getattr(loaded, key) == getattr(version, key) for key in plain)


def test_the_name_is_the_content(stats: GradientStats) -> None:
    version = version_of(stats)
    assert replace(version, created="later").id == version.id
    others = [version_of(stats, groups=2), replace(version, source="other"), version_of(replace(stats, cost={}))]
    nudged = replace(version.estimate, noise=version.estimate.noise + 1e-12)
    others.append(replace(version, estimate=nudged))
    assert len({version.id, *(other.id for other in others)}) == 5


def test_what_was_computed_once_is_found_by_its_inputs(stats: GradientStats, tmp_path: Path) -> None:
    inputs = inputs_digest(stats, {"groups": 3, "seed": 0})
    version = replace(version_of(stats), inputs=inputs)
    save_version(tmp_path, replace(version_of(stats, groups=2), inputs="another"))
    assert find_version(tmp_path, inputs) is None
    save_version(tmp_path, version)
    found = find_version(tmp_path, inputs)
    assert found is not None and found.id == version.id
    others = [({"groups": 2, "seed": 0}, stats), ({"groups": 3, "seed": 0}, replace(stats, sum=stats.sum + 1e-9))]
    assert all(inputs_digest(numbers, parameters) != inputs for parameters, numbers in others)


def test_latest_is_the_one_saved_last_and_saving_again_changes_no_file(stats: GradientStats, tmp_path: Path) -> None:
    first, second = version_of(stats), version_of(stats, groups=2)
    save_version(tmp_path, first)
    before = {path: path.read_bytes() for path in tmp_path.glob("v-*")}
    save_version(tmp_path, second)
    assert load_version(tmp_path, "latest").id == second.id
    save_version(tmp_path, replace(first, created="later"))
    assert load_version(tmp_path).id == first.id
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_a_changed_version_is_refused(stats: GradientStats, tmp_path: Path, suffix: str) -> None:
    version = version_of(stats)
    save_version(tmp_path, version)
    path = tmp_path / f"{version.id}.{suffix}"
    whole = path.read_bytes()
    if suffix == "json":
        content = json.loads(whole)
        content["grouping"]["groups"].reverse()
        path.write_text(json.dumps(content))
    else:
        path.write_bytes(whole[:-8] + b"\0" * 8)
    with pytest.raises(AffinityError, match="changed"):
        load_version(tmp_path, version.id)
    with pytest.raises(AffinityError, match="changed"):
        save_version(tmp_path, version)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AffinityError, match="cannot read"):
        load_version(tmp_path, version.id)


def test_missing_versions_and_odd_names_are_refused(stats: GradientStats, tmp_path: Path) -> None:
    with pytest.raises(AffinityError, match="gst probe"):
        load_version(tmp_path)
    name = save_version(tmp_path, version_of(stats))
    with pytest.raises(AffinityError, match=name):
        load_version(tmp_path, "v-000000000000")
    for odd in ("../secret", "v-", f"{name}/../{name}", ""):
        with pytest.raises(AffinityError, match="not the name"):
            load_version(tmp_path, odd)


def test_a_version_copied_under_another_name_is_refused(stats: GradientStats, tmp_path: Path) -> None:
    name = save_version(tmp_path, version_of(stats))
    for suffix in ("json", "safetensors"):
        (tmp_path / f"v-000000000000.{suffix}").write_bytes((tmp_path / f"{name}.{suffix}").read_bytes())
    with pytest.raises(AffinityError, match="changed"):
        load_version(tmp_path, "v-000000000000")


def test_versions_without_resamples_and_with_infinities(stats: GradientStats, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = GradientStats.from_batches({name: rng.standard_normal((4, 32)) for name in "abc"})
    estimate = corrected_gram(noise)
    assert np.isinf(estimate.noise_scale).any()
    version = make_version(noise, estimate, None, group_datasets(estimate, None, groups=2))
    loaded = load_version(tmp_path, save_version(tmp_path, version))
    assert loaded.intervals == {}
    assert len(loaded.source) == 64
    assert np.array_equal(loaded.estimate.noise_scale, estimate.noise_scale)


def same_stats(left: GradientStats, right: GradientStats) -> bool:
    for item in fields(left):
        a, b = getattr(left, item.name), getattr(right, item.name)
        if item.name == "batches" and a is not None:
            if not all(np.array_equal(x, y) for x, y in zip(a, b, strict=True)):
                return False
        elif isinstance(a, np.ndarray):
            if not (np.array_equal(a, b) and a.dtype == b.dtype):
                return False
        elif a != b:
            return False
    return True


def test_a_probe_comes_back_as_it_was(stats: GradientStats, tmp_path: Path) -> None:
    uneven = GradientStats.from_batches({"a": np.ones((3, 8)), "b": np.zeros((1, 8)), "c": np.ones((5, 8))})
    sums = GradientStats(["a"], np.array([3]), np.ones((1, 8)), np.ones(1))
    for value in (stats, uneven, sums):
        save_probe(tmp_path, value)
        assert same_stats(load_probe(tmp_path), value)


def test_a_damaged_or_half_replaced_probe_is_refused(stats: GradientStats, tmp_path: Path) -> None:
    with pytest.raises(AffinityError, match="no complete probe"):
        load_probe(tmp_path)
    save_probe(tmp_path, stats)
    old_json = (tmp_path / "probe.json").read_bytes()
    save_probe(tmp_path, replace(stats, sum=stats.sum * 2))
    (tmp_path / "probe.json").write_bytes(old_json)
    with pytest.raises(AffinityError, match="damaged"):
        load_probe(tmp_path)
    (tmp_path / "probe.json").write_text("{")
    with pytest.raises(AffinityError, match="cannot read"):
        load_probe(tmp_path)


def test_a_probe_with_weights_comes_back_and_sketches_of_another_kind_are_refused(
    stats: GradientStats, tmp_path: Path
) -> None:
    assert stats.batches is not None
    weights = [np.arange(1.0, 1 + len(rows)) for rows in stats.batches]
    spec = {"k": 512, "seed": 0, "version": 1, "gradient": "raw", "model": "abc"}
    save_probe(tmp_path, replace(stats, batch_weights=weights, spec=spec))
    loaded = load_probe(tmp_path, {"k": 512, "seed": 0, "gradient": "raw"})
    assert loaded.batch_weights is not None
    assert all(np.array_equal(a, b) for a, b in zip(loaded.batch_weights, weights, strict=True))
    others = {"k": 256, "seed": 1, "version": 2, "gradient": "sign", "model": "abd"}
    for key, value in others.items():
        with pytest.raises(AffinityError, match=f"differ in {key}") as caught:
            load_probe(tmp_path, {**spec, key: value})
        assert caught.value.got == {key: spec[key]} and caught.value.expected == {key: value}


def test_groups_are_not_made_from_a_probe_of_another_recipe(stats: GradientStats, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"arm: a\nout: {tmp_path}\nmodel: {{path: m}}\ndata: {{shards: s}}\ntrain: {{max_steps: 1}}\n")
    spec = {"k": 4096, "seed": 0, "version": 1, "gradient": "raw", "model": "abc"}
    save_probe(tmp_path / "probe", replace(stats, spec={**spec, "gradient": "sign"}))
    with pytest.raises(AffinityError, match="differ in gradient"):
        group(str(recipe))
    save_probe(tmp_path / "probe", replace(stats, spec=spec))
    group(str(recipe))
    assert has_versions(tmp_path / "affinity")


def test_resamples_use_the_micro_batches_weights(stats: GradientStats) -> None:
    assert stats.batches is not None
    alike = replace(stats, batch_weights=[np.full(len(rows), 7.0) for rows in stats.batches])
    assert np.allclose(bootstrap(alike, 20).gram, bootstrap(stats, 20).gram)
    uneven = replace(stats, batch_weights=[np.arange(1.0, 1 + len(rows)) for rows in stats.batches])
    assert not np.allclose(bootstrap(uneven, 20).gram, bootstrap(stats, 20).gram, rtol=1e-3)

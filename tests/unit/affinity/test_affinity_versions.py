"""Versions and probes on disk: immutable, verified, whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as safetensors_bytes

from pipeline.affinity.estimator import GradientStats, corrected_gram
from pipeline.affinity.grouping import group_datasets
from pipeline.affinity.resample import bootstrap
from pipeline.affinity.versions import (
    AffinityVersion,
    dump_version,
    find_version,
    has_versions,
    inputs_digest,
    load_version,
    make_version,
    parse_version,
    save_version,
)
from pipeline.errors import AffinityError, PayloadError


def version_of(stats: GradientStats, groups: int = 3) -> AffinityVersion:
    estimate, intervals = corrected_gram(stats), bootstrap(stats, 20)
    return make_version(stats, estimate, intervals, group_datasets(estimate, intervals, groups=groups))


SMALL = dump_version(
    version_of(GradientStats.from_batches({name: np.eye(4) * (i + 1) for i, name in enumerate("abc")}), groups=2)
)


@pytest.fixture
def stats(planted: Callable) -> GradientStats:
    return replace(planted(0).stats, source="abc", cost={"seconds": 1.5})


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


def with_modules(stats: GradientStats) -> AffinityVersion:
    version = version_of(stats)
    half = version.estimate.gram / 2
    return replace(version, modules={"lora_A": half, "layers.3.lora_B": half + 0.0})


def test_a_version_travels_as_one_file(stats: GradientStats, tmp_path: Path) -> None:
    for version in (with_modules(stats), version_of(stats)):
        came = parse_version(dump_version(version))
        assert came.id == version.id and came.created == version.created
        assert came.document() == version.document()
        assert dump_version(came) == dump_version(version)
        assert save_version(tmp_path, came) == version.id
        assert load_version(tmp_path).modules.keys() == version.modules.keys()
        assert all(np.array_equal(load_version(tmp_path).modules[name], each) for name, each in version.modules.items())


def test_modules_are_part_of_the_name(stats: GradientStats) -> None:
    version = with_modules(stats)
    other = replace(version, modules={**version.modules, "lora_A": version.modules["lora_A"] * 2})
    assert len({version.id, other.id, replace(version, modules={}).id}) == 3


def rewritten(payload: bytes, arrays: dict | None = None, **content: object) -> bytes:
    """The file with other matrices or entries of its document, under the name that fits the new content."""
    header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
    document = {**json.loads(header["__metadata__"]["version"]), **content}
    return safetensors_bytes({**load_arrays(payload), **(arrays or {})}, {"version": json.dumps(document)})


@pytest.mark.parametrize(
    "change",
    [
        {"method": "../../secret"},
        {"datasets": ["a"]},
        {"datasets": []},
        {"datasets": [1] * 14},
        {"format": 1},
        {"grouping": None},
        {"spec": []},
        {"warnings": [3]},
        {"id": "v-000000000000"},
        {"cost": {"seconds": float("nan")}},
        {"reliability": "high"},
        {"parameters": {"more": 1}},
        {"created": 5},
        {"arrays": {"gram": np.zeros((3, 3))}},
        {"arrays": {"gram": np.full((14, 14), np.nan)}},
        {"arrays": {"noise": np.zeros(14, dtype=np.float32)}},
        {"arrays": {"module.x": np.zeros((14, 3))}},
        {"arrays": {"surplus": np.zeros((14, 14))}},
    ],
    ids=str,
)
def test_a_version_with_an_unfit_part_is_refused(stats: GradientStats, change: dict) -> None:
    payload = dump_version(with_modules(stats))
    assert parse_version(rewritten(payload)).datasets == stats.datasets
    with pytest.raises(PayloadError):
        parse_version(rewritten(payload, **change))


def test_groups_of_a_version_that_travels_are_a_partition(stats: GradientStats) -> None:
    version = version_of(stats)
    wrong = replace(version, grouping=replace(version.grouping, groups=version.groups[1:]))
    with pytest.raises(PayloadError, match="exactly once"):
        parse_version(dump_version(wrong))


@given(position=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_are_a_payload_error_and_never_another_version(position: int, byte: int, cut: int) -> None:
    payload = bytearray(SMALL)
    payload[position % len(payload)] ^= byte or 1
    for damaged in (bytes(payload), SMALL[: cut % len(SMALL)]):
        try:
            came = parse_version(damaged)
        except PayloadError:
            continue
        whole = parse_version(SMALL)  # the time of creation is no part of what the name stands for
        assert dump_version(replace(came, created=whole.created)) == SMALL


def test_bytes_that_never_were_a_version_are_refused() -> None:
    deep = "[" * 100_000
    others = (b"", b"{}", b"\xff" * 64, safetensors_bytes({"a": np.zeros(1)}), SMALL + b"x")
    for payload in (*others, safetensors_bytes({"gram": np.zeros((1, 1))}, {"version": deep})):
        with pytest.raises(PayloadError):
            parse_version(payload)


def test_resamples_use_the_micro_batches_weights(stats: GradientStats) -> None:
    assert stats.batches is not None
    alike = replace(stats, batch_weights=[np.full(len(rows), 7.0) for rows in stats.batches])
    assert np.allclose(bootstrap(alike, 20).gram, bootstrap(stats, 20).gram)
    uneven = replace(stats, batch_weights=[np.arange(1.0, 1 + len(rows)) for rows in stats.batches])
    assert not np.allclose(bootstrap(uneven, 20).gram, bootstrap(stats, 20).gram, rtol=1e-3)

"""Versions from statistics: views of modules, too little to resample, too much to resample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pipeline.affinity.compute import compute_version, module_grams
from pipeline.affinity.estimator import GradientStats, corrected_gram, gram_of_sums
from pipeline.affinity.resample import bootstrap
from pipeline.affinity.versions import inputs_digest
from pipeline.config.schema import AffinityConfig
from pipeline.errors import AffinityError


def options(**values: object) -> AffinityConfig:
    return AffinityConfig.model_validate({"bootstrap": 20, **values})


def in_modules(planted: Callable) -> GradientStats:
    """Groups are planted in `lora_B` only; `lora_A` is another draw without any."""
    structured, plain = planted(0, batches=32).stats, planted(1, batches=32, group=0.0).stats
    rows = [np.stack(pair, axis=1) for pair in zip(plain.batches, structured.batches, strict=True)]
    whole = GradientStats.from_batches(
        {name: each.sum(1) for name, each in zip(plain.datasets, rows, strict=True)}, spec={"k": 512}
    )
    return replace(
        whole,
        groups=["lora_A", "lora_B"],
        group_sum=np.stack([each.sum(0) for each in rows]),
        group_sum_sq=np.stack([np.square(each).sum((0, 2)) for each in rows]),
        group_batches=rows,
    )


def test_a_view_of_modules_has_their_estimate_intervals_and_groups(planted: Callable) -> None:
    stats = in_modules(planted)
    version = compute_version(stats, options(modules={"lora_B": 2.0}, groups="auto"))
    expected = corrected_gram(planted(0, batches=32).stats)
    assert np.allclose(version.estimate.gram, 2 * expected.gram)
    low = bootstrap(stats.weighted({"lora_B": 2.0}), 20).distance_low
    assert np.allclose(version.intervals["distance_low"], low)
    assert [len(group) for group in sorted(version.groups, key=len)] == [4, 5, 5]
    assert version.parameters["modules"] == {"lora_B": 2.0} and version.reliability is not None
    whole = compute_version(stats, options())
    assert "modules" not in whole.parameters
    assert np.allclose(whole.modules["lora_B"], expected.gram, atol=1e-5)
    assert {name: version.modules[name].tolist() for name in version.modules} == {
        name: whole.modules[name].tolist() for name in whole.modules
    }
    with pytest.raises(AffinityError, match="did you mean 'lora_B'"):
        compute_version(stats, options(modules={"lora-B": 1.0}))
    with pytest.raises(AffinityError, match="apart"):
        compute_version(planted(0).stats, options(modules={"lora_B": 1.0}))


def test_without_kept_micro_batches_a_number_of_groups_is_answered_and_auto_is_not(planted: Callable) -> None:
    stats = in_modules(planted)
    sums = replace(stats, batches=None, group_batches=None)
    version = compute_version(sums, options(groups=3))
    assert len(version.groups) == 3 and version.intervals == {}
    assert "were not kept, so there is no evidence" in version.verdict
    with pytest.raises(AffinityError, match="not kept"):
        compute_version(sums, options(groups="auto"))
    one_view = compute_version(replace(stats, group_batches=None), options(groups=3, modules={"lora_B": 1.0}))
    assert "sketches of these modules were not kept apart" in one_view.verdict
    few = GradientStats.from_batches({name: rows[:3] for name, rows in zip("abc", stats.batches, strict=False)})
    assert "too few micro-batches to resample (a: 3, b: 3, c: 3)" in compute_version(few, options(groups=2)).verdict


def test_too_much_to_resample_is_said(planted: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = planted(0, batches=32).stats
    monkeypatch.setattr("pipeline.affinity.resample.MAX_RESAMPLE_BYTES", 3 * 8 * 14**2 * 12)
    version = compute_version(stats, options(groups="auto"))
    assert version.parameters["resamples"] == 12
    assert version.verdict.endswith(
        "; 12 resamples instead of 20, as more of 448 micro-batches of 14 datasets do not fit"
    )
    monkeypatch.setattr("pipeline.affinity.resample.MAX_PRODUCTS", 1000)
    assert "14 datasets are too many to resample, so" in compute_version(stats, options(groups=3)).verdict
    with pytest.raises(AffinityError, match="too many to resample"):
        compute_version(stats, options(groups="auto"))


def test_views_of_modules_are_bounded_and_the_largest_are_kept(
    planted: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = in_modules(planted)
    monkeypatch.setattr("pipeline.affinity.compute.MAX_MODULE_ELEMENTS", 14**2)
    modules, left_out = module_grams(replace(stats, group_sum=stats.group_sum * [[[1.0], [3.0]]]))
    assert list(modules) == ["lora_B"]
    assert left_out[0].startswith("views of 1 of 2 parameter groups are left out")
    assert left_out[0] in compute_version(stats, options()).estimate.warnings
    monkeypatch.setattr("pipeline.affinity.compute.MAX_MODULE_ELEMENTS", 14**2 - 1)
    assert module_grams(stats)[0] == {}
    assert module_grams(planted(0).stats) == ({}, ())


def test_the_same_inputs_give_the_same_version_with_the_digest_given_or_not(planted: Callable) -> None:
    stats = planted(0, batches=32).stats
    chosen = options(metric="cosine", order="random", seed=3)
    version = compute_version(stats, chosen)
    digest = inputs_digest(stats, chosen.model_dump())
    assert version.inputs == digest
    assert compute_version(stats, chosen, inputs=digest).id == version.id
    assert (version.grouping.metric, version.grouping.order, version.parameters["seed"]) == ("cosine", "random", 3)


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_fast_grams_are_exact_enough_for_gradients_of_any_size(planted: Callable, size: float) -> None:
    stats = planted(0, noise=(8.0, 16.0)).stats
    total, total_sq = stats.sum * size, stats.sum_sq * size**2
    slow = gram_of_sums(total, total_sq, *stats.weights)
    quick = gram_of_sums(total, total_sq, *stats.weights, fast=True)
    assert np.abs(quick - slow).max() < 1e-5 * np.abs(np.diag(slow)).max()
    assert np.array_equal(gram_of_sums(0 * total, 0 * total_sq, *stats.weights, fast=True), np.zeros((14, 14)))

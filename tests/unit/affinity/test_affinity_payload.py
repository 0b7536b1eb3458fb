"""Gradient statistics as bytes: exact, deterministic, and believed only after every part was checked."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from pipeline.affinity.estimator import KEPT_AXES, STATS_AXES, GradientStats, corrected_gram
from pipeline.affinity.payload import (
    MAX_HEADER_BYTES,
    combine,
    dump_contribution,
    dump_stats,
    load_contribution,
    load_stats,
)
from pipeline.errors import AffinityError, GstError, PayloadError
from tests.launching import environment

K, GROUPS = 32, ["aligner", "lora_b"]
SPEC: dict[str, Any] = {"k": K, "seed": 3, "version": 1, "gradient": "raw", "model": "abc"}


def full_stats(counts: dict[str, int], seed: int = 0) -> GradientStats:
    """Statistics with every part there is, as a probe with groups, weights and kept micro-batches makes them."""
    rng = np.random.default_rng(seed)
    by_group = [rng.standard_normal((b, len(GROUPS), K)).astype(np.float32) for b in counts.values()]
    weights = [rng.integers(1, 50, b).astype(np.float64) for b in counts.values()]
    rows = [each.sum(1) for each in by_group]

    def over(parts: list[np.ndarray], function: Callable[[np.ndarray, np.ndarray], Any], half: slice) -> np.ndarray:
        return np.stack(
            [function(each[half].astype(np.float64), w[half]) for each, w in zip(parts, weights, strict=True)]
        )

    def total(x: np.ndarray, w: np.ndarray) -> Any:
        return np.tensordot(w, x, 1)

    def total_sq(x: np.ndarray, w: np.ndarray) -> Any:
        return w**2 @ np.square(x).sum(-1)

    every, halves = slice(None), (slice(0, None, 2), slice(1, None, 2))
    return GradientStats(
        datasets=list(counts),
        count=np.array(list(counts.values())),
        sum=over(rows, total, every),
        sum_sq=over(rows, total_sq, every),
        batches=rows,
        batch_weights=weights,
        weight=over(rows, lambda _, w: w.sum(), every),
        weight_sq=over(rows, lambda _, w: (w**2).sum(), every),
        spec=dict(SPEC),
        cost={"seconds": 1.5, "samples": 7},
        source="of a probe",
        half_count=np.stack([over(rows, lambda _, w: len(w), half) for half in halves]),
        half_sum=np.stack([over(rows, total, half) for half in halves]),
        half_sum_sq=np.stack([over(rows, total_sq, half) for half in halves]),
        half_weight=np.stack([over(rows, lambda _, w: w.sum(), half) for half in halves]),
        half_weight_sq=np.stack([over(rows, lambda _, w: (w**2).sum(), half) for half in halves]),
        groups=list(GROUPS),
        group_sum=over(by_group, total, every),
        group_sum_sq=over(by_group, total_sq, every),
        group_batches=by_group,
        dropped=np.arange(len(counts)),
        tokens=np.arange(len(counts)) * 100,
    )


def load(payload: bytes, **changed: Any) -> GradientStats:
    return load_contribution(payload, **{"dataset": "a", "spec": SPEC, "groups": GROUPS, **changed})


def require_same(left: GradientStats, right: GradientStats) -> None:
    """Equal to the last bit, types included."""
    for item in fields(left):
        a, b = getattr(left, item.name), getattr(right, item.name)
        if item.name in (*STATS_AXES, *KEPT_AXES) and a is not None:
            pairs = zip(a, b, strict=True) if item.name in KEPT_AXES else [(a, b)]
            assert all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs), item.name
        else:
            assert a == b, item.name


STATS = full_stats({"a": 6, "b": 4, "c": 9})
GOOD = dump_contribution(STATS, "a")


def test_every_part_has_a_place_in_the_test() -> None:
    assert all(getattr(STATS, item.name) is not None for item in fields(STATS))


@pytest.mark.parametrize("stats", [
    STATS,
    replace(STATS, batches=None, batch_weights=None, group_batches=None),
    replace(STATS, groups=None, group_sum=None, group_sum_sq=None, group_batches=None),
    GradientStats.from_batches({"a": np.ones((3, K)), "b": np.zeros((1, K)), "c": np.zeros((0, K))}, SPEC),
    GradientStats(["a"], np.array([0]), np.zeros((1, K)), np.zeros(1), spec=SPEC),
])  # fmt: skip
def test_statistics_come_back_exactly(stats: GradientStats) -> None:
    require_same(load_stats(dump_stats(stats)), stats)
    for name in stats.datasets:
        loaded = load(dump_contribution(stats, name), dataset=name, groups=stats.groups or [])
        require_same(loaded, replace(stats.select([name]), cost={}, source=""))


def test_equal_statistics_give_equal_bytes_in_every_process() -> None:
    code = (
        "import hashlib; from tests.unit.affinity.test_affinity_payload import GOOD;"
        "print(hashlib.sha256(GOOD).hexdigest())"
    )
    for hash_seed in ("1", "2"):
        env = {**environment(), "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == hashlib.sha256(GOOD).hexdigest()
    assert dump_contribution(replace(STATS, cost={"seconds": 9.0}), "a") == GOOD


def header_of(payload: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(payload[:8], "little")
    return json.loads(payload[8 : 8 + size]), payload[8 + size :]


def with_header(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def altered(arrays: dict[str, Any] | None = None, document: dict[str, Any] | None = None) -> bytes:
    """A well-formed file with some arrays or parts of the description replaced; None takes one away."""
    found = {**load_arrays(GOOD), **(arrays or {})}
    described = {**json.loads(header_of(GOOD)[0]["__metadata__"]["statistics"]), **(document or {})}
    kept = {name: value for name, value in described.items() if value != "absent"}
    metadata = {"statistics": json.dumps(kept)}
    return save_arrays(
        {name: np.ascontiguousarray(value) for name, value in found.items() if value is not None}, metadata
    )


def test_the_alteration_itself_changes_nothing() -> None:
    require_same(load(altered()), load(GOOD))


GOOD_ARRAYS = load_arrays(GOOD)
NAN = np.full((1, K), np.nan)
LIES: dict[str, tuple[dict[str, Any], str]] = {
    "nan": ({"sum": NAN}, "NaN or infinity"),
    "infinite batch": ({"batches": np.full((6, K), np.inf)}, "NaN or infinity"),
    "nan by group": ({"group_sum": np.full((1, 2, K), np.nan)}, "NaN or infinity"),
    "negative count": ({"count": np.array([-6])}, "negative"),
    "count beyond all": ({"count": np.array([2**60])}, "too large"),
    "count without rows": ({"count": np.array([7])}, "does not fit"),
    "fractional count": ({"count": np.array([6.0])}, "does not fit"),
    "negative square": ({"sum_sq": np.array([-1.0])}, "negative"),
    "negative weight": ({"weight": np.array([-1.0])}, "negative"),
    "another k": ({"sum": np.zeros((1, 2 * K))}, "does not fit"),
    "another number of groups": ({"group_sum": np.zeros((1, 3, K))}, "does not fit"),
    "two datasets' rows": ({"sum": np.zeros((2, K))}, "does not fit"),
    "float32 sums": ({"sum": GOOD_ARRAYS["sum"].astype(np.float32)}, "does not fit"),
    "float16 batches": ({"batches": GOOD_ARRAYS["batches"].astype(np.float16)}, "does not fit"),
    "unknown array": ({"labels": np.zeros(1)}, "unknown arrays"),
    "no sums": ({"sum": None}, "lack"),
    "half a half": ({"half_sum_sq": None}, "lack"),
    "groups without sums": ({"group_sum": None}, "lack"),
    "weights of nothing": ({"batches": None, "group_batches": None}, "lack"),
    "halves of other batches": ({"half_count": np.array([[3], [2]])}, "halves"),
    "more weight than there can be": ({"weight_sq": np.array([1e-3])}, "contradict"),
    "weights that are not the batches'": ({"batch_weights": np.full(6, 3.0)}, "contradict"),
    "halves with other weights": ({"half_weight": np.array([[1.0], [1.0]])}, "contradict"),
    "weights taken away": ({"weight": None, "weight_sq": None}, "contradict"),
    "infinite weight": ({"weight": np.array([1e300]), "weight_sq": np.array([1e300])}, "contradict"),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "says"), LIES.values(), ids=LIES)
def test_numbers_that_cannot_be_are_refused(arrays: dict[str, Any], says: str) -> None:
    with pytest.raises(PayloadError, match=says):
        load(altered(arrays))


@pytest.mark.parametrize("document", [
    {"format": 2}, {"format": "absent"}, {"spec": {"seed": 3}}, {"spec": {**SPEC, "k": True}}, {"spec": []},
    {"datasets": []}, {"datasets": ["a", "a"]}, {"datasets": "a"}, {"groups": "ab"}, {"groups": [1, 2]},
    {"extra": 1}, {"cost": 3}, {"source": None}, {"spec": "absent"},
])  # fmt: skip
def test_odd_descriptions_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(PayloadError):
        load(altered(document=document))


def test_sketches_of_another_kind_name_the_keys() -> None:
    with pytest.raises(PayloadError, match="differ in gradient, seed") as caught:
        load(GOOD, spec={**SPEC, "seed": 4, "gradient": "sign"})
    assert caught.value.got == {"gradient": "raw", "seed": 3}
    assert caught.value.expected == {"gradient": "sign", "seed": 4}


def test_sketches_of_another_dataset_or_layout_or_size_are_refused() -> None:
    for changed, says in (
        ({"dataset": "b"}, "another dataset"),
        ({"groups": []}, "other parameter groups"),
        ({"groups": GROUPS[::-1]}, "other parameter groups"),
        ({"max_bytes": len(GOOD) - 1}, "too large"),
    ):
        with pytest.raises(PayloadError, match=says):
            load(GOOD, **changed)
    assert load(GOOD, max_bytes=len(GOOD)).datasets == ["a"]


def test_a_header_that_lies_about_the_bytes_is_refused() -> None:
    header, data = header_of(GOOD)
    first = dict(header["sum"])
    begin, end = first["data_offsets"]
    lies = [
        with_header({**header, "sum": {**first, "data_offsets": [begin, end + 8]}}, data),
        with_header({**header, "sum": {**first, "data_offsets": [0, end - begin]}}, data),
        with_header({**header, "sum": {**first, "shape": [2**40, 2**40]}}, data),
        with_header({**header, "sum": {**first, "dtype": "F1024"}}, data),
        with_header({**header, "sum": 3}, data),
        with_header({**header, "__metadata__": {"statistics": 3}}, data),
        with_header({**header, "__metadata__": None}, data),
        with_header({name: value for name, value in header.items() if name != "__metadata__"}, data),
        with_header([], data),
        with_header(b"[" * 100_000, data),
        with_header(b"\xff\xfe", data),
        with_header(header, data + b"\0"),
        with_header(header, data[:-1]),
        (2**63).to_bytes(8, "little") + GOOD[8:],
        (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b" " * (MAX_HEADER_BYTES + 1),
        b"",
        GOOD[:7],
    ]
    for payload in lies:
        with pytest.raises(PayloadError):
            load(payload)


def load_or_refuse(payload: bytes) -> GradientStats | None:
    try:
        return load(payload)
    except PayloadError as error:
        assert str(error)
        return None


@given(st.binary(max_size=400))
def test_random_bytes_are_refused(payload: bytes) -> None:
    assert load_or_refuse(payload) is None
    assert load_or_refuse(len(payload).to_bytes(8, "little") + payload) is None


@given(st.integers(0, len(GOOD) - 1))
def test_every_truncation_is_refused(size: int) -> None:
    assert load_or_refuse(GOOD[:size]) is None


@given(st.lists(st.integers(0, 8 * len(GOOD) - 1), min_size=1, max_size=4, unique=True))
@settings(max_examples=300)
def test_flipped_bits_are_refused_or_give_possible_statistics(bits: list[int]) -> None:
    payload = bytearray(GOOD)
    for bit in bits:
        payload[bit // 8] ^= 1 << bit % 8
    loaded = load_or_refuse(bytes(payload))
    if loaded is not None:
        assert np.isfinite(loaded.sum).all() and loaded.sum_sq[0] >= 0 and loaded.spec == SPEC


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.data())
@settings(max_examples=300)
def test_headers_that_lie_are_refused(data: st.DataObject) -> None:
    header, content = header_of(GOOD)
    name = data.draw(st.sampled_from([*header, "other"]))
    entry = header.get(name)
    if isinstance(entry, dict) and name != "__metadata__" and data.draw(st.booleans()):
        part = data.draw(st.sampled_from(sorted(entry)))
        sizes = st.lists(st.integers(0, 2**64), max_size=4)
        dtypes = st.sampled_from(["F64", "F32", "I64", "F16", "BOOL", "BF16"])
        entry = {**entry, part: data.draw(dtypes if part == "dtype" else sizes)}
    else:
        entry = data.draw(json_values)
    if entry != header.get(name):
        assert load_or_refuse(with_header({**header, name: entry}, content)) is None


@given(st.sampled_from(["format", "datasets", "spec", "groups", "cost", "source", "more"]), json_values)
@settings(max_examples=200)
def test_descriptions_that_lie_are_refused(name: str, value: Any) -> None:
    load_or_refuse(altered(document={name: value}))


def parts_of(stats: GradientStats) -> dict[str, list[GradientStats]]:
    return {name: [load(dump_contribution(stats, name), dataset=name)] for name in stats.datasets}


def test_combining_one_contributor_is_the_probe_itself() -> None:
    require_same(combine(parts_of(STATS), source=STATS.source, cost=STATS.cost), STATS)


def rows_between(stats: GradientStats, first: int, last: int | None) -> dict[str, np.ndarray]:
    assert stats.batches is not None
    return {name: rows[first:last] for name, rows in zip(stats.datasets, stats.batches, strict=True)}


def test_contributors_together_are_all_micro_batches_in_one(planted: Callable) -> None:
    whole = planted(0).stats
    cuts = ((0, 3), (3, 8), (8, None))
    shares = [GradientStats.from_batches(rows_between(whole, *cut), whole.spec) for cut in cuts]
    combined = combine({name: [share.select([name]) for share in shares] for name in whole.datasets})
    assert np.array_equal(combined.count, whole.count)
    assert np.allclose(combined.sum, whole.sum) and np.allclose(combined.sum_sq, whole.sum_sq)
    assert combined.batches is not None and whole.batches is not None
    assert all(np.array_equal(a, b) for a, b in zip(combined.batches, whole.batches, strict=True))
    assert combined.half_sum is not None and np.allclose(combined.half_sum.sum(0), whole.sum)
    mine, theirs = corrected_gram(combined), corrected_gram(whole)
    for name in ("gram", "noise", "distance_sq"):
        assert np.allclose(getattr(mine, name), getattr(theirs, name))


def test_weighted_contributors_together_are_all_in_one() -> None:
    whole = full_stats({"a": 8, "b": 8})
    parts: dict[str, list[GradientStats]] = {}
    assert whole.batches is not None and whole.batch_weights is not None
    for name, rows, weights in zip(whole.datasets, whole.batches, whole.batch_weights, strict=True):
        parts[name] = []
        for cut in (slice(0, 5), slice(5, None)):
            x, w = rows[cut].astype(np.float64), weights[cut]
            parts[name].append(
                GradientStats(
                    [name], np.array([len(x)]), (w @ x)[None], np.array([w**2 @ np.square(x).sum(1)]),
                    weight=np.array([w.sum()]), weight_sq=np.array([(w**2).sum()]), batches=[x], batch_weights=[w],
                    spec=SPEC,
                )
            )  # fmt: skip
    combined = combine(parts)
    assert combined.half_count is None and combined.groups is None
    for name in ("sum", "sum_sq", "weight", "weight_sq"):
        assert np.allclose(getattr(combined, name), getattr(whole, name))
    assert np.allclose(corrected_gram(combined).gram, corrected_gram(whole).gram)


def test_what_only_some_have_is_left_out_but_not_their_weights() -> None:
    other = full_stats({"a": 5, "b": 5, "c": 5}, seed=1)
    plain = replace(
        GradientStats.from_batches(rows_between(other, 0, None), SPEC),
        half_count=None, half_sum=None, half_sum_sq=None, half_weight=None, half_weight_sq=None, batches=None,
    )  # fmt: skip
    parts = {name: [STATS.select([name])] for name in STATS.datasets}
    parts["b"].append(plain.select(["b"]))
    combined = combine(parts)
    for name in ("batches", "batch_weights", "half_sum", "groups", "group_sum", "group_batches", "tokens"):
        assert getattr(combined, name) is None, name
    assert STATS.weight is not None and combined.weight is not None and combined.weight_sq is not None
    assert np.array_equal(combined.weight, STATS.weight + np.array([0, 5, 0]))
    assert np.allclose(combined.sum[1], STATS.sum[1] + plain.sum[1])


def test_what_does_not_belong_together_is_not_combined() -> None:
    a, b = STATS.select(["a"]), STATS.select(["b"])
    groups = replace(a, groups=GROUPS[::-1])
    for parts in ({}, {"a": []}, {"a": [a], "b": []}, {"a": [b]}, {"a": [a, replace(a, spec={"k": K})]},
                  {"a": [a, groups]}):  # fmt: skip
        with pytest.raises(AffinityError):
            combine(parts)


def test_what_cannot_be_sent_is_refused_before() -> None:
    for broken in (
        replace(STATS, cost={"seconds": float("nan")}),
        replace(STATS, tokens=np.array([0.5, 1.0, 2.0])),
    ):
        with pytest.raises(GstError):
            dump_stats(broken)

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.mixture import Mixture, proportional_weights, temperature_weights, uniform_weights
from pipeline.errors import CheckpointError, ConfigError

NAMES = [f"d{k:02d}" for k in range(14)]

weight_lists = st.lists(st.floats(0.0, 10.0), min_size=1, max_size=14).filter(lambda values: sum(values) > 0.01)


@given(values=weight_lists, seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_deficit_keeps_served_counts_at_the_weights(values: list[float], seed: int) -> None:
    mixture = Mixture(NAMES, seed, dict(zip(NAMES, values, strict=False)))
    served: Counter[str] = Counter()
    for t, name in enumerate(mixture.draw_step(300), start=1):
        served[name] += 1
        assert all(abs(served[d] - w * t) <= 2 for d, w in mixture.weights.items())
    assert all(served[d] == 0 for d, w in mixture.weights.items() if w == 0)


def test_categorical_follows_the_weights_and_never_draws_zero() -> None:
    mixture = Mixture(["a", "b", "c", "d"], 3, {"a": 0, "b": 1, "c": 3, "d": 0}, draw="categorical")
    served = Counter(mixture.draw_step(4000))
    assert set(served) == {"b", "c"}
    assert abs(served["c"] / 4000 - 0.75) < 0.03


@pytest.mark.parametrize("n", [2, 4, 8])
def test_equal_datasets_do_not_stick_to_one_rank(n: int) -> None:
    # Without jitter, n equal datasets in n slots come in the same order in every step.
    mixture = Mixture(NAMES[:n], 0, uniform_weights(NAMES[:n]))
    first_rank = Counter(mixture.draw_step(n)[0] for _ in range(400))
    assert len(first_rank) == n
    assert min(first_rank.values()) > 0.5 * 400 / n


def test_draws_depend_neither_on_step_size_nor_on_the_order_of_names() -> None:
    weights = {name: k + 1.0 for k, name in enumerate(NAMES)}
    long = Mixture(NAMES, 5, weights).draw_step(120)
    short = Mixture(NAMES[::-1], 5, dict(reversed(weights.items())))
    assert [name for _ in range(30) for name in short.draw_step(4)] == long
    assert Mixture(NAMES, 6, weights).draw_step(120) != long


@given(values=weight_lists, cut=st.integers(0, 60), draw=st.sampled_from(["deficit", "categorical"]))
@settings(max_examples=20, deadline=None)
def test_state_through_json_goes_on_exactly(values: list[float], cut: int, draw: str) -> None:
    weights = dict(zip(NAMES, values, strict=False))
    mixture = Mixture(NAMES, 1, weights, draw=draw)  # type: ignore[arg-type]
    for name in mixture.draw_step(cut):
        mixture.take(name, 3)
    copy = Mixture(NAMES, 1, uniform_weights(NAMES), draw=draw)  # type: ignore[arg-type]
    copy.load_state_dict(json.loads(json.dumps(mixture.state_dict())))
    assert copy.weights == mixture.weights and copy.positions == mixture.positions
    assert copy.draw_step(60) == mixture.draw_step(60)


def test_set_weights_acts_on_the_next_draw_and_a_new_pool_owes_nothing() -> None:
    mixture = Mixture(["a", "b", "c"], 0, {"a": 1})
    assert set(mixture.draw_step(10)) == {"a"}
    mixture.set_weights({"b": 1, "c": 1})
    served = Counter(mixture.draw_step(10))
    assert served == {"b": 5, "c": 5}
    assert mixture.weights == {"a": 0.0, "b": 0.5, "c": 0.5}


def test_a_new_pool_does_not_remember_the_one_before() -> None:
    pools = [{"a": 5, "b": 2, "c": 2}, {"a": 1, "c": 7, "d": 1}]
    mixtures = [Mixture(["a", "b", "c", "d"], 0, pool) for pool in pools]
    for mixture in mixtures:
        mixture.draw_step(7)
        mixture.set_weights({"b": 1, "c": 1})
    assert mixtures[0].draw_step(20) == mixtures[1].draw_step(20)


def test_positions_count_what_was_taken() -> None:
    mixture = Mixture(["a", "b"], 0, {"a": 1})
    assert [mixture.take("a", 4), mixture.take("a", 4), mixture.take("b", 4)] == [0, 4, 0]
    assert mixture.positions == {"a": 8, "b": 4}


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"clotho": 0.0}, "no dataset has a positive"),
        ({}, "no dataset has a positive"),
        ({"clotho": -1.0}, "clotho"),
        ({"clotho": math.nan}, "nan"),
        ({"clotho": math.inf}, "inf"),
        ({"clotho": 1.0, "clothoo": 1.0}, "did you mean clotho?"),
    ],
)
def test_unusable_weights_are_refused(weights: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match="(?s)" + says.replace("?", r"\?")):
        Mixture(["clotho", "macs"], 0, weights)
    mixture = Mixture(["clotho", "macs"], 0, {"macs": 1})
    with pytest.raises(ConfigError):
        mixture.set_weights(weights)
    assert mixture.weights == {"clotho": 0.0, "macs": 1.0}


def test_state_of_another_mixture_is_refused() -> None:
    mixture = Mixture(["a", "b"], 0, {"a": 1})
    state = mixture.state_dict()
    for other in (Mixture(["a", "c"], 0, {"a": 1}), Mixture(["a", "b"], 1, {"a": 1})):
        with pytest.raises(CheckpointError, match="try: resume with"):
            other.load_state_dict(state)
    with pytest.raises(CheckpointError, match="draw"):
        Mixture(["a", "b"], 0, {"a": 1}, draw="categorical").load_state_dict(state)


def test_unknown_draw_is_refused() -> None:
    with pytest.raises(ConfigError, match="deficit or categorical"):
        Mixture(["a"], 0, {"a": 1}, draw="lottery")  # type: ignore[arg-type]


def test_weight_helpers() -> None:
    sizes = {"small": 100, "large": 900}
    assert proportional_weights(sizes) == pytest.approx({"small": 0.1, "large": 0.9})
    assert temperature_weights(sizes, 2) == pytest.approx({"small": 0.25, "large": 0.75})
    assert temperature_weights(sizes, 1e9) == pytest.approx(uniform_weights(sizes))
    assert np.isclose(sum(temperature_weights({name: 3**k for k, name in enumerate(NAMES)}, 1.7).values()), 1)
    for t in (0, -1, math.nan):
        with pytest.raises(ConfigError):
            temperature_weights(sizes, t)

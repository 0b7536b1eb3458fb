from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.data.mixture import Mixture
from pipeline.data.sources import Stream, Switch
from pipeline.errors import CheckpointError, ConfigError

NAMES = ("a", "b")
UNITS = {"a@0": 1.0, "b@1": 1.0}
BOTH = {"a": 0.5, "b": 0.5}


def make_switch(weights: dict[str, float]) -> Switch:
    return Switch({"units": Mixture(list(UNITS), 0, UNITS), "clusters": Stream("all", NAMES)}, weights)


def draw(source: Any, n: int = 4) -> list[tuple[str, int]]:
    return [(pool, source.take(pool, 2)) for pool in source.draw_step(n)]


def test_a_stream_hands_out_consecutive_positions() -> None:
    stream = Stream("all", NAMES)
    assert draw(stream, 3) + draw(stream, 2) == [("all", 2 * k) for k in range(5)]
    assert stream.positions == {"all": 10} and stream.names == NAMES


def test_a_stream_leaves_nothing_out() -> None:
    stream = Stream("all", NAMES)
    stream.set_weights({"b": 0.9, "a": 0.1})
    for weights in ({"a": 1.0}, {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 1.0, "c": 1.0}):
        with pytest.raises(ConfigError, match="cannot leave some out"):
            stream.set_weights(weights)


def test_weights_say_which_source_draws_and_the_others_stand_still() -> None:
    switch, units, stream = make_switch({**UNITS, "a": 0.0}), Mixture(list(UNITS), 0, UNITS), Stream("all", NAMES)
    assert switch.active == "units" and draw(switch) == draw(units)
    switch.set_weights({**BOTH, "a@0": 0.0, "b@1": 0.0})
    assert switch.active == "clusters" and draw(switch) == draw(stream)
    switch.set_weights({"a@0": 1.0, **dict.fromkeys(BOTH, 0.0)})
    units.set_weights({"a@0": 1.0})
    assert draw(switch) == draw(units)
    assert switch.positions == {**units.positions, **stream.positions}


@pytest.mark.parametrize("weights", [{"a@0": 1.0, "a": 1.0}, {"c": 1.0}, {"a": 0.0}, {}])
def test_weights_of_no_one_source_are_refused(weights: dict[str, float]) -> None:
    switch = make_switch(UNITS)
    with pytest.raises(ConfigError, match="which source draws"):
        switch.set_weights(weights)
    assert switch.active == "units"


@pytest.mark.parametrize("weights", [UNITS, BOTH])
def test_a_switch_goes_on_from_its_state(weights: dict[str, float]) -> None:
    switch, other = make_switch(UNITS), make_switch(BOTH)
    draw(switch)
    switch.set_weights(weights)
    draw(switch)
    other.load_state_dict(json.loads(json.dumps(switch.state_dict())))
    assert other.state_dict() == switch.state_dict()
    assert draw(other) == draw(switch)
    for each in (switch, other):
        each.set_weights(UNITS)
    assert draw(other) == draw(switch)


def test_a_state_of_another_source_is_refused() -> None:
    stream, switch, mixture = Stream("all", NAMES), make_switch(UNITS), Mixture(list(UNITS), 0, UNITS)
    fewer = Switch({"clusters": Stream("all", NAMES)}, BOTH)
    pairs = [(stream, switch), (switch, stream), (stream, mixture), (mixture, stream), (switch, fewer), (fewer, switch)]
    pairs.append((stream, Stream("others", NAMES)))
    for one, other in pairs:
        before = one.state_dict()
        with pytest.raises(CheckpointError, match="start a new run"):
            one.load_state_dict(other.state_dict())
        assert one.state_dict() == before
    with pytest.raises(CheckpointError, match="version"):
        stream.load_state_dict({**stream.state_dict(), "version": 0})

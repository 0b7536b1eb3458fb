"""What of a parametrized test was asked for, so that a fixture that serves all of it computes no more."""

from __future__ import annotations

from typing import Any

import pytest


def selected(request: pytest.FixtureRequest, name: str) -> list[Any]:
    """The values of the parameter `name` in the tests of the requesting module that will run, in their order."""
    tests = [item for item in request.session.items if item.path == request.path]
    parameters = [test.callspec.params for test in tests if hasattr(test, "callspec")]
    return list(dict.fromkeys(each[name] for each in parameters if name in each))


def few(values: Any, first: int) -> list[Any]:
    """Parameters of which all but the `first` so many are `long`."""
    return [*values[:first], *(pytest.param(value, marks=pytest.mark.long) for value in values[first:])]

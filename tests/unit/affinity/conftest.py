"""Synthetic gradients with a known structure."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.planted import Planted, plant


@pytest.fixture
def planted() -> Callable[..., Planted]:
    return plant

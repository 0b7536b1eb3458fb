"""JSON values that every reader understands: no NaN, no infinity, no endless nesting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.errors import PayloadError

MAX_DEPTH = 32


def finite(value: Any) -> Any:
    """`value` with null for every number that JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value


def require_shallow(value: Any, depth: int = MAX_DEPTH) -> None:
    """Refuse JSON nested so deeply that writing it again could fail.

    Raises:
        PayloadError: more than `depth` levels.
    """
    if depth == 0:
        raise PayloadError("JSON is nested too deeply", expected=f"at most {MAX_DEPTH} levels")
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for each in inner:
        if isinstance(each, Mapping | list):
            require_shallow(each, depth - 1)

"""Open windows of sketches when another number of ranks goes on with a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.errors import SketchError


def redealt_window(states: Sequence[dict[str, Any]], rank: int) -> dict[str, Any]:
    """The open window of rank `rank` out of the saved ones (`SketchWindow.state_dict`) of another number of ranks.

    Sums over ranks are all that is ever used of a window, so the first rank takes everything and the others begin
    empty.

    Raises:
        SketchError: a window of kept micro-batches, which belongs to a probe and not to a training.
    """
    first = states[0]
    if first["keep_batches"]:
        raise SketchError("a window that keeps micro-batches cannot be dealt to another number of ranks")
    sums = {name: sum(state["sums"][name] for state in states) for name in first["sums"]}
    seen = [sum(counts) for counts in zip(*(state["seen"] for state in states), strict=True)]
    if rank:
        sums, seen = {name: torch.zeros_like(value) for name, value in sums.items()}, [0] * len(seen)
    return {**first, "sums": sums, "seen": seen, "keys_given": all(state["keys_given"] for state in states)}

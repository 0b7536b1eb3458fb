"""The state of torch's generators."""

from __future__ import annotations

import torch


def random_state() -> dict[str, torch.Tensor]:
    """State of the generators that dropout draws from; everything else draws from its own counters."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])

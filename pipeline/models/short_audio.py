"""Audio padded to the longest clip of its micro-batch where a model's own code insists on its window of 30 s.

An encoder that masks padding gives a valid frame the same output however much padding follows it, but for one thing:
its two convolutions see a little of it. Whisper's look ahead by one frame each, the second after halving the rate: the
last output of a clip of L frames sees frames up to L + 1. So two frames of padding are kept, and the pooling over pairs
of outputs asks for a multiple of four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pipeline.errors import ModelError
from pipeline.models.family import Family, module_at

SEEN_AHEAD = 2
MULTIPLE = 4
STRIDE = 2  # of the convolutions before positions are added


def frames_needed(longest: int, window: int) -> int:
    """Frames to keep of a window of so many, in which the longest clip has `longest` valid ones."""
    return min(window, -(-(longest + SEEN_AHEAD) // MULTIPLE) * MULTIPLE)


def require_short_windows(family: Family | None, name: str) -> None:
    """ModelError unless clips of a family keep their values when less is padded; `name`: of what has no family."""
    if family is not None and family.padding == "masked":
        return
    why = {
        "window": "its encoder hears the padding of the window as part of the clip",
        "batch": "its own processor pads to the longest clip already",
    }
    reason = "it is not known whether its encoder masks padding" if family is None else why[family.padding]
    raise ModelError(
        f"audio of `{name if family is None else family.name}` cannot be padded to the longest clip: {reason}",
        where={"key": "model.pad_audio"},
        got="longest",
        expected="window",
    )


def accept_short_windows(model: torch.nn.Module, family: Family) -> None:
    """Let a model's encoder take fewer frames than its window; with as many as its window nothing is different."""
    if family.position_table is None:
        return
    encoder = module_at(model, family.encoder)
    encoder.forward = _in_short_window(encoder, family.position_table, encoder.forward)


def _in_short_window(encoder: Any, table: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    """The encoder's own forward, during which its window is as long as its input."""
    window = encoder.config.max_source_positions

    def run(input_features: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """`forward` of features [B, M, T] with T / STRIDE positions."""
        positions = input_features.shape[-1] // STRIDE
        if positions == window:
            return forward(input_features, *args, **kwargs)
        whole = getattr(encoder, table)
        encoder.config.max_source_positions = positions
        setattr(encoder, table, _First(whole.weight[:positions]))
        try:
            return forward(input_features, *args, **kwargs)
        finally:
            encoder.config.max_source_positions = window
            setattr(encoder, table, whole)

    return run


class _First(torch.nn.Module):
    """The first rows of a table of positions, which the encoder adds without calling it."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight.detach()  # positions are fixed; not a parameter of this module

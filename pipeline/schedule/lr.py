"""Learning-rate factor: a pure function of the step, the budget and the stage switches."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.config.training import LrScheduleConfig


def lr_factor(config: LrScheduleConfig, step: int, max_steps: int, switches: Sequence[int] = ()) -> float:
    """Multiplier of the base rate for optimizer step `step` (1-based).

    Every arm's schedule ends at `max_steps`, so that no arm is compared with another in mid-schedule. Neither the
    first step nor (with `one_cycle` excepted, as in torch) the last is spent at rate 0.

    Args:
        switches: steps after which a new stage began; each may dip the rate and let it climb back.
    """
    factor = _one_cycle(config, step, max_steps) if config.kind == "one_cycle" else _warmed(config, step, max_steps)
    since = step - max((switch for switch in switches if switch < step), default=-config.rewarm_steps)
    if since < config.rewarm_steps:
        climb = since / config.rewarm_steps
        factor *= config.rewarm_floor + (1 - config.rewarm_floor) * climb
    return max(factor, 0.0)


def _warmed(config: LrScheduleConfig, step: int, max_steps: int) -> float:
    factor = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    if config.kind in ("wsd", "infinite"):
        held = _cooldown(config, step, max_steps) if config.kind == "infinite" else 1.0
        decay_steps = round(config.decay_share * max_steps)
        if decay_steps:
            left = min(1.0, (max_steps - step + 1) / decay_steps)
            held = config.min_share + (held - config.min_share) * left
        return factor * held
    return factor * (config.min_share + (1 - config.min_share) * _fall(config, step, max_steps))


def _fall(config: LrScheduleConfig, step: int, max_steps: int) -> float:
    """From 1 in the first step after the warm-up towards 0; `done` is the share of the way, below 1."""
    past = max(0, step - 1 - config.warmup_steps)
    done = min(1.0, past / max(1, max_steps - config.warmup_steps))
    if config.kind == "linear":
        return 1 - done
    if config.kind == "cosine":
        return _cosine(done)
    if config.kind == "rex":  # Chen et al. 2021, "REX: Revisiting Budgeted Training with an Improved Schedule"
        return (1 - done) / (1 - done / 2)
    if config.kind == "inverse_sqrt":
        timescale = config.timescale or config.warmup_steps or 1
        return math.sqrt(timescale / (timescale + past))
    return 1.0


def _cooldown(config: LrScheduleConfig, step: int, max_steps: int) -> float:
    """The infinite schedule's fall to its constant rate (Ibrahim et al. 2024, arXiv 2403.08763)."""
    steps = round(config.cooldown_share * max_steps)
    done = min(1.0, max(0, step - 1 - config.warmup_steps) / steps) if steps else 1.0
    return config.constant_share + (1 - config.constant_share) * _cosine(done)


def _one_cycle(config: LrScheduleConfig, step: int, max_steps: int) -> float:
    """Smith & Topin 2017, in the phases of `torch.optim.lr_scheduler.OneCycleLR`."""
    top = config.warmup_steps  # the step at the peak; none when there is no climb
    if step <= top:
        climbed = (step - 1) / (top - 1) if top > 1 else 1.0
        return config.start_share + (1 - config.start_share) * (1 - _cosine(climbed))
    done = min(1.0, (step - max(top, 1)) / max(1, max_steps - max(top, 1)))
    return config.min_share + (1 - config.min_share) * _cosine(done)


def _cosine(done: float) -> float:
    """Half a cosine wave from 1 at 0 to 0 at 1."""
    return (1 + math.cos(math.pi * done)) / 2

"""Learning-rate factor: warm-up, constant, one final linear decay; a stage switch may dip and climb back."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config.training import LrScheduleConfig


def lr_factor(config: LrScheduleConfig, step: int, max_steps: int, switches: Sequence[int] = ()) -> float:
    """Multiplier of the base rate for optimizer step `step` (1-based).

    Every arm's decay ends at `max_steps`, so that no arm is compared with another in mid-schedule.

    Args:
        switches: steps after which a new stage began.
    """
    factor = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    decay_steps = round(config.decay_share * max_steps)
    if decay_steps:
        factor *= min(1.0, (max_steps - step + 1) / decay_steps)
    since = step - max((switch for switch in switches if switch < step), default=-config.rewarm_steps)
    if since < config.rewarm_steps:
        climb = since / config.rewarm_steps
        factor *= config.rewarm_floor + (1 - config.rewarm_floor) * climb
    return max(factor, 0.0)

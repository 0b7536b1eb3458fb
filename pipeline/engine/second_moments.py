"""What AdamW would divide each element of a gradient by, as the last optimizer step left it."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.engine.counts import trainable_count
from pipeline.errors import SketchError
from pipeline.models.load import trainable_parameters

# On every rank, in float32: a billion trainable parameters, more than any LoRA and a full fine-tuning that fits one
# accelerator. Beyond it every rank would hold what ZeRO-3 was chosen to divide between them.
MAX_DENOMINATOR_BYTES = 4 << 30


def adam_steps(engine: Any) -> int:
    """Optimizer steps that moved Adam's moments; fp16 skips those that overflow."""
    return int(engine.global_steps - engine.skipped_steps)


def adam_denominator(engine: Any, second: torch.Tensor) -> torch.Tensor:
    """sqrt(v / (1 - beta2^t)) + eps in float32, for second moments v (any shape) after `adam_steps` steps t >= 1.

    v is of the gradients that the optimizer saw, so of clipped ones. It is 0 where no step has had a gradient: rows of
    an embedding whose token has not come up, LoRA's A at the second step. Adam has no scale for these elements yet, and
    1 / eps would let them drown all others, so the denominator is infinite there: they count nothing.
    """
    group = engine.optimizer.param_groups[0]  # betas and eps are one recipe key each, equal in all groups
    corrected = second.float() / (1 - group["betas"][1] ** adam_steps(engine))
    return torch.where(corrected > 0, corrected.sqrt() + float(group["eps"]), torch.inf)


def require_whole_denominators(engine: Any) -> None:
    """Raise SketchError where `whole_adam_denominators` will not work, before a warm-up is spent on it.

    It needs ZeRO-3 (under other stages DeepSpeed shows the optimizer state of the first group of parameters only) and
    at most `MAX_DENOMINATOR_BYTES` on every rank.
    """
    if engine.zero_optimization_stage() != 3:
        raise SketchError(
            "a probe with preconditioned gradients gathers the optimizer state of ZeRO-3 alone",
            where={"key": "zero_optimization.stage"},
            got=engine.zero_optimization_stage(),
            expected=3,
            hint="use stage 3, or probe with sketch.gradient=raw or sign",
        )
    needed = 4 * trainable_count(engine)[0]
    if needed > MAX_DENOMINATOR_BYTES:
        raise SketchError(
            "Adam's second moments of the whole model do not fit: a probe with preconditioned gradients has all of "
            "them, in float32, on every rank",
            where={"key": "sketch.gradient"},
            got=f"{needed / 1e9:.1f} GB",
            expected=f"at most {MAX_DENOMINATOR_BYTES / 1e9:.1f} GB",
            hint="train with LoRA, probe with sketch.gradient=raw or sign, or sketch in training with "
            "sketch.mode=partition, where each rank needs only its own slice",
        )


def whole_adam_denominators(engine: Any) -> dict[str, torch.Tensor]:
    """`adam_denominator` of every trainable parameter, whole, by its name in the module, on the engine's device.

    One all-gather for each parameter, between two optimizer steps; `require_whole_denominators` says when.

    Raises:
        SketchError: the optimizer has taken no step yet, or keeps no second moments.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    if adam_steps(engine) < 1:
        raise SketchError(
            "there are no second moments yet: the optimizer has taken no step",
            got=f"{engine.global_steps} steps, {engine.skipped_steps} of them skipped for overflow",
            hint="probe after a warm-up: raise probe.warmup_steps",
        )
    try:
        return {
            name: adam_denominator(engine, safe_get_full_optimizer_state(parameter, "exp_avg_sq"))
            for name, parameter in trainable_parameters(engine.module).items()
        }
    except KeyError:
        raise SketchError(
            "the optimizer keeps no second moments to divide gradients by",
            got=type(engine.basic_optimizer).__name__,
            expected="AdamW",
        ) from None

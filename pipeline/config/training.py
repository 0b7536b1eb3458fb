"""Recipe sections of how weights are trained: optimizer, learning rate, batches, budget."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.config.section import Section


class OptimizerConfig(Section):
    name: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    eps: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: PositiveFloat = 1.0


class LrScheduleConfig(Section):
    """Warm-up, constant, then one final decay: the factor depends on the step alone, and a stage may re-warm it."""

    warmup_steps: Annotated[int, Field(ge=0)] = 20
    decay_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.3, description="share of the budget that the final linear decay takes"
    )
    rewarm_steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="after a stage switch, climb back from `rewarm_floor` in this many steps"
    )
    rewarm_floor: Annotated[float, Field(gt=0, le=1)] = 0.3


class TrainConfig(Section):
    max_steps: PositiveInt
    global_batch: PositiveInt = Field(default=16, description="examples per optimizer step, over all ranks")
    micro_batch: PositiveInt = Field(default=4, description="examples per forward; all of one dataset")
    seed: int = 0
    optimizer: OptimizerConfig = OptimizerConfig()
    lr_schedule: LrScheduleConfig = LrScheduleConfig()
    eval_every: PositiveInt = 25
    checkpoint_every: PositiveInt = 100
    keep_checkpoints: PositiveInt = 2
    save_model: bool = Field(default=False, description="write the trained model as a `from_pretrained` folder")

    @model_validator(mode="after")
    def _batches_fit(self) -> TrainConfig:
        if self.global_batch % self.micro_batch:
            raise ValueError(
                f"global_batch ({self.global_batch}) must be a multiple of micro_batch ({self.micro_batch})"
            )
        return self

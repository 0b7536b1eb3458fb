"""Recipe sections of how weights are trained: optimizer, learning rate, batches, budget, which weights are judged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.config.section import Section

# What each optimizer gets when the recipe does not say; None: it takes no such key. AdamW's second beta is lower than
# its paper's, for short fine-tuning; the others are their authors' defaults.
OPTIMIZER_DEFAULTS: dict[str, dict[str, Any]] = {
    "adamw": {"betas": (0.9, 0.98), "eps": 1e-8},
    "lion": {"betas": (0.9, 0.99), "eps": None},
    "adafactor": {"betas": None, "eps": None},
    "sophia": {"betas": (0.965, 0.99), "eps": 1e-12},
    "lamb": {"betas": (0.9, 0.999), "eps": 1e-6},
    "adam_mini": {"betas": (0.9, 0.999), "eps": 1e-8},
    "schedule_free": {"betas": (0.9, 0.999), "eps": 1e-8},
    "dog": {"betas": None, "eps": 1e-8, "lr": 1.0, "weight_decay": 0.0},
}
SCORES = ("loss", "token_accuracy", "exact_match")


class AutoClipConfig(Section):
    """Clip to a percentile of the gradient norms seen so far, this step's included (Seetharaman et al. 2020)."""

    percentile: Annotated[float, Field(gt=0, le=100)] = 10.0
    window: PositiveInt | None = Field(default=None, description="of the last so many norms; None: of all")


class OptimizerConfig(Section):
    """An optimizer by name; weight decay is applied to matrices only.

    `options` are further arguments of the optimizer's own constructor. `dog` finds its step size itself: its lr is 1
    and the schedule's factor is what multiplies it. `sophia` takes `options: {update_period: 10}`, the steps between
    two estimates of the Hessian's diagonal, each of which costs one more forward and backward.
    """

    name: Literal["adamw", "lion", "adafactor", "sophia", "lamb", "adam_mini", "schedule_free", "dog"] = "adamw"
    lr: PositiveFloat = 1e-3
    betas: tuple[float, float] | None = (0.9, 0.98)
    eps: PositiveFloat | None = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: PositiveFloat | None = Field(default=1.0, description="of the whole gradient; None: no fixed limit")
    autoclip: AutoClipConfig | None = Field(default=None, description="a limit that adapts, beside clip_norm")
    options: dict[str, Any] = Field(default={}, description="further arguments of the optimizer")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {**OPTIMIZER_DEFAULTS.get(values.get("name", "adamw"), {}), **values}
        return values

    @model_validator(mode="after")
    def _takes_what_is_set(self) -> OptimizerConfig:
        for key, default in OPTIMIZER_DEFAULTS[self.name].items():
            value = getattr(self, key)
            if default is None and value is not None:
                raise ValueError(f"{self.name} takes no {key}")
            if default is not None and value is None:
                raise ValueError(f"{self.name} needs {key}")
        if self.name == "dog" and (self.lr != 1 or self.weight_decay != 0):
            raise ValueError(
                "dog finds its own step size from one norm over all parameters: it takes lr 1 and weight_decay 0 only"
            )
        return self


class LrScheduleConfig(Section):
    """The multiplier of the learning rate, from the step and the stage switches alone.

    Every kind climbs linearly from 0 over `warmup_steps` (one_cycle: in a cosine from `start_share`), and then:
    `constant`; `linear` and `cosine` fall to `min_share` at the end of the budget; `rex` likewise, by
    (1 - t) / (1 - t/2); `inverse_sqrt` falls with the root of the steps over `timescale`; `wsd` (warm-up, stable,
    decay) holds, then falls linearly in the last `decay_share` of the budget; `infinite` falls in a cosine over
    `cooldown_share` of the budget to `constant_share`, holds that through all stages, then falls linearly as wsd does;
    `one_cycle` falls in a cosine.
    """

    kind: Literal["constant", "linear", "cosine", "inverse_sqrt", "wsd", "infinite", "one_cycle", "rex"] = "wsd"
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    min_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="what every fall ends at, as a share of the peak"
    )
    decay_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.3, description="wsd, infinite: share of the budget that the final linear decay takes"
    )
    timescale: PositiveInt | None = Field(
        default=None, description="inverse_sqrt: steps; None: warmup_steps, as in transformers"
    )
    cooldown_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.2, description="infinite: share of the budget that the first fall takes"
    )
    constant_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="infinite: the constant rate, as a share of the peak"
    )
    start_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.04, description="one_cycle: the first rate, as a share of the peak"
    )
    rewarm_steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="after a stage switch, climb back from `rewarm_floor` in this many steps"
    )
    rewarm_floor: Annotated[float, Field(gt=0, le=1)] = 0.3

    @model_validator(mode="after")
    def _fits_together(self) -> LrScheduleConfig:
        if self.kind == "one_cycle" and self.rewarm_steps:
            raise ValueError("one_cycle is one climb and one fall: it takes no rewarm_steps")
        if self.kind == "infinite" and self.min_share > self.constant_share:
            raise ValueError(f"min_share ({self.min_share}) is above constant_share ({self.constant_share})")
        if self.kind == "infinite" and self.cooldown_share + self.decay_share > 1:
            raise ValueError("cooldown_share and decay_share are more than the whole budget")
        return self


class AveragingConfig(Section):
    """Which weights are evaluated, selected, tested and exported: the trained ones, or an average of them.

    `ema`: a moving average over steps, with decay min(decay, (1 + t) / (10 + t)) at update t, so that the first
    weights are soon forgotten. `merge`: a weighted mean of the last `last` snapshots, one every `every` steps and one
    at the end. `weights` names the learning-rate decay that merging stands in for (WSM, arXiv 2507.17634), `uniform`
    being a linear one; `ema` counts each snapshot `decay` times as much as the next.
    """

    kind: Literal["none", "ema", "merge"] = "none"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    last: Annotated[int, Field(ge=2)] = 5
    every: PositiveInt | None = Field(default=None, description="None: every checkpoint_every steps")
    weights: Literal["uniform", "cosine", "one_minus_sqrt", "ema"] = "uniform"


class GradesConfig(Section):
    """Stop updating matrices whose gradients have died (after GradES, arXiv 2509.01842).

    Watched is the L1 norm of the change of each matrix's gradient from one step to the next, averaged over about
    `window` steps. A matrix stops when that falls below `threshold` of the highest it has been. The relative threshold
    is ours; the paper's is absolute. A stopped matrix keeps its value to the bit; backward still passes through it.
    """

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.1
    grace_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.3, description="share of the budget before which nothing stops"
    )
    window: PositiveInt = 10


class KeepBestConfig(Section):
    """Keep the checkpoint of the evaluation that was best, beside the newest ones."""

    metric: str = Field(
        default="val/macro/loss", description="val/<dataset, or macro for the mean over datasets>/<score>"
    )
    mode: Literal["min", "max"] | None = Field(default=None, description="None: min for a loss, max otherwise")
    use_for_test: bool = Field(default=True, description="test and export the best weights instead of the last")

    @model_validator(mode="after")
    def _names_a_score(self) -> KeepBestConfig:
        parts = self.metric.split("/")
        if len(parts) != 3 or parts[0] != "val" or parts[2] not in SCORES:
            raise ValueError(f"a metric reads val/<dataset or macro>/<{' | '.join(SCORES)}>")
        return self

    @property
    def lower_is_better(self) -> bool:
        return (self.mode or ("min" if self.metric.endswith("/loss") else "max")) == "min"


class SpeedConfig(Section):
    """How a step is computed. What it computes is the same up to rounding, whatever is chosen here.

    `cross_entropy`: `torch` makes the logits of all answer tokens of a micro-batch; `chunked` never holds more than a
    part of them and computes them twice; `liger` (of the package liger-kernel, on a GPU) holds none; `auto` is liger
    where it is installed and fits, else torch.
    """

    answer_logits: bool = Field(
        default=True, description="run the output layer only at positions whose next token is an answer's"
    )
    cross_entropy: Literal["auto", "torch", "chunked", "liger"] = "auto"
    activation_checkpointing: bool = Field(
        default=False, description="keep each layer's input only and run the layer again in backward: less memory"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> SpeedConfig:
        if self.cross_entropy in ("chunked", "liger") and not self.answer_logits:
            raise ValueError(f"cross_entropy: {self.cross_entropy} is of answer tokens alone: it needs answer_logits")
        return self


class TrainConfig(Section):
    max_steps: PositiveInt
    global_batch: PositiveInt = Field(default=16, description="examples per optimizer step, over all ranks")
    micro_batch: PositiveInt = Field(default=4, description="examples per forward; all of one dataset")
    seed: int = 0
    optimizer: OptimizerConfig = OptimizerConfig()
    lr_schedule: LrScheduleConfig = LrScheduleConfig()
    lr_scaling: Literal["none", "linear", "sqrt"] = Field(
        default="none",
        description="lr is meant for `base_batch`: multiply it by global_batch / base_batch, or its root",
    )
    base_batch: PositiveInt | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="of the loss that is differentiated; logged losses are without it"
    )
    speed: SpeedConfig = SpeedConfig()
    averaging: AveragingConfig = AveragingConfig()
    grades: GradesConfig | None = None
    eval_every: PositiveInt = 25
    checkpoint_every: PositiveInt = 100
    keep_checkpoints: PositiveInt = 2
    keep_best: KeepBestConfig | None = None
    save_model: bool = Field(
        default=False,
        description="at the end write the model that is tested to the run's folder `model`, as `gst export` would",
    )

    @property
    def peak_lr(self) -> float:
        """The learning rate that the schedule multiplies, scaled to the batch."""
        if self.lr_scaling == "none" or self.base_batch is None:
            return self.optimizer.lr
        ratio = self.global_batch / self.base_batch
        return self.optimizer.lr * (ratio if self.lr_scaling == "linear" else ratio**0.5)

    @model_validator(mode="after")
    def _batches_fit(self) -> TrainConfig:
        if self.global_batch % self.micro_batch:
            raise ValueError(
                f"global_batch ({self.global_batch}) must be a multiple of micro_batch ({self.micro_batch})"
            )
        if (self.lr_scaling == "none") != (self.base_batch is None):
            raise ValueError("lr_scaling and base_batch are set together or not at all")
        return self

    @model_validator(mode="after")
    def _loss_fits(self) -> TrainConfig:
        if self.label_smoothing and self.speed.cross_entropy in ("chunked", "liger"):
            raise ValueError(
                f"speed.cross_entropy: {self.speed.cross_entropy} knows no label smoothing: leave it at auto or torch"
            )
        return self

    @model_validator(mode="after")
    def _optimizer_fits(self) -> TrainConfig:
        name = self.optimizer.name
        if name == "dog" and self.lr_scaling != "none":
            raise ValueError("dog finds its own step size: there is no learning rate to scale")
        if name == "schedule_free" and self.lr_schedule.kind != "constant":
            raise ValueError("schedule_free averages instead of decaying: set lr_schedule.kind to constant")
        if name == "schedule_free" and self.averaging.kind != "none":
            raise ValueError("schedule_free already evaluates averaged weights: leave averaging.kind at none")
        return self

"""Recipe sections of what is trained on when: regimes, stages, weights, plateau detectors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from pipeline.config.section import Section


class PlateauConfig(Section):
    """When the current pool counts as flat.

    `patience`: no new best (by `min_gain`, relative) in `window` evaluations.
    `slope`: a straight line through the last `window` evaluations falls by less than `min_gain` (relative to the
    current loss) per evaluation with the stated confidence.
    """

    detector: Literal["patience", "slope"] = "slope"
    window: Annotated[int, Field(ge=2)] = 4
    min_gain: Annotated[float, Field(ge=0)] = 0.02
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.8


class StageConfig(Section):
    min_tokens: Annotated[int, Field(ge=0)] = 0
    max_tokens: PositiveInt | None = None
    max_share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="upper bound of each stage but the last, as a share of max_steps"
    )


class WeightsConfig(Section):
    """Sampling weights inside the pool: p_i ~ n_i^(1/temperature); 1 is proportional, `uniform` ignores sizes."""

    kind: Literal["proportional", "uniform", "temperature"] = "temperature"
    temperature: PositiveFloat = 2.0


REGIMES_BUILT = ("mix_all", "gst")
REGIMES_LATER = (
    "individual",
    "sequential",
    "gst_strict_cycle",
    "tpc",
    "ads",
    "tpc_ads",
    "gram",
    "pike",
    "mastering_rate",
    "gst_adaptive",
)
REGIME_ALIASES = {"parallel": "mix_all", "sm": "mix_all"}


class ScheduleConfig(Section):
    """Which datasets are trained on, when, and with which weights."""

    regime: str = "mix_all"
    weights: WeightsConfig = WeightsConfig()
    grouping: Literal["gradient", "transferability", "random", "domain", "explicit"] = "gradient"
    affinity: str | None = Field(default=None, description="folder of affinity versions (`gst group` writes it)")
    version: str = Field(default="latest", description="affinity version; pinned in the run's resolved recipe")
    explicit: tuple[tuple[str, ...], ...] | None = Field(default=None, description="groups in order")
    order: Literal["progressive", "reverse", "random"] | None = Field(default=None, description="None: as stored")
    seed: int = Field(default=0, description="seed of random partitions and orders")
    plateau: PlateauConfig = PlateauConfig()
    stage: StageConfig = StageConfig()

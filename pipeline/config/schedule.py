"""Recipe sections of what is trained on when: regimes, stages, weights, plateau detectors."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from pipeline.config.section import Section

Share = Annotated[float, Field(gt=0, le=1)]
Confidence = Annotated[float, Field(gt=0.5, lt=1)]


class PlateauConfig(Section):
    """When the current pool counts as flat. `pipeline.schedule.plateau` has the formulas and the error rates.

    `patience`: no new best (by `min_gain`, relative) in `window` evaluations.
    `slope`: a straight line through the last `window` evaluations falls by less than `min_gain` (relative to the
    current loss) per evaluation with the stated confidence.
    `paired`: from the first to the last 3/8 of a window that grows with the stage, from `window` to `max_window`
    evaluations, the datasets' losses fall by less than `min_gain` per evaluation with the stated confidence.
    `none`: never; stages end by their limits alone.
    """

    detector: Literal["patience", "slope", "paired", "none"] = "slope"
    window: Annotated[int, Field(ge=2)] = 4
    max_window: Annotated[int, Field(ge=2)] = Field(default=24, description="`paired`: the window grows to this")
    min_gain: Annotated[float, Field(ge=0)] = 0.02
    confidence: Confidence = 0.8

    @model_validator(mode="after")
    def _can_grow(self) -> PlateauConfig:
        if self.detector == "paired" and not 3 <= self.window <= self.max_window:
            raise ValueError(f"paired: window ({self.window}) must be 3 to max_window ({self.max_window})")
        return self


class StageConfig(Section):
    """Limits of every stage but the last. A list gives each stage its own; its last value holds for all after it."""

    min_tokens: Annotated[int, Field(ge=0)] | tuple[Annotated[int, Field(ge=0)], ...] = 0
    max_tokens: PositiveInt | tuple[PositiveInt, ...] | None = None
    max_share: Share | tuple[Share, ...] | None = Field(default=None, description="of max_steps")


class WeightsConfig(Section):
    """Sampling weights inside the pool: p_i ~ n_i^(1/temperature); 1 is proportional, `uniform` ignores sizes."""

    kind: Literal["proportional", "uniform", "temperature"] = "temperature"
    temperature: PositiveFloat = 2.0


class CycleConfig(Section):
    """`gst_strict_cycle`: a visit to a group takes at most 1/rounds of the group's share of the budget."""

    rounds: PositiveInt = 2


# Questions of these tasks ask for what is there, for a property of it, or for an account of the whole. The second
# paper names only speech tasks (ASR, then dialect and emotion, then summarisation); the rest is placed beside these.
TASK_LEVELS = (
    ("transcript", "asr", "transcription", "presence", "sources", "instrument", "tags"),
    (
        "emotion", "dialect", "gender", "pitch", "speed", "energy", "scene", "category", "instrument_count",
        "ensemble", "composer", "qa_closed",
    ),
    ("caption", "style", "summary", "qa_open", "qa_whole"),
)  # fmt: skip


class TpcConfig(Section):
    """`tpc`: tasks enter by levels of semantic abstraction; `tpc_ads` goes over to clusters at `switch`."""

    levels: tuple[tuple[str, ...], ...] = Field(default=TASK_LEVELS, description="task names, first level first")
    accumulate: bool = Field(default=True, description="earlier levels stay in the pool; false: each level alone")
    switch: Annotated[float, Field(gt=0, lt=1)] | Literal["plateau"] = Field(
        default=0.5, description="`tpc_ads`: share of the budget, or the plateau of the last level"
    )

    @model_validator(mode="after")
    def _each_task_once(self) -> TpcConfig:
        tasks = [task for level in self.levels for task in level]
        twice = sorted({task for task in tasks if tasks.count(task) > 1})
        if twice or not all(self.levels) or not self.levels:
            raise ValueError(f"levels: every level needs tasks, each task once (twice: {', '.join(twice) or 'none'})")
        return self


class AdsConfig(Section):
    """`ads`: batches go round clusters of clips in the aligner's embedding space."""

    clusters: PositiveInt = Field(default=500, description="fewer when there are fewer clips")
    seed: int = 0


class ReweightConfig(Section):
    """How far weights that follow gradients or losses may go."""

    floor: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="smallest weight of a dataset in the pool, as a share of 1 / datasets in the pool"
    )
    max_change: Share = Field(default=0.1, description="share of the mixture that may change hands in one update")


class GramConfig(Section):
    """`gram`: p <- softmax(sharpness * G p / |G p|)."""

    sharpness: PositiveFloat = 2.0


class PikeConfig(Section):
    """`pike`: w <- w exp(zeta1 * G_kk - zeta2 / (2 b) * S_k), b the micro-batches of a step.

    `relative`: G and S are divided by the mean G_kk first, so that zeta1 and zeta2 do not depend on the model's scale.
    """

    zeta1: Annotated[float, Field(ge=0)] = 0.1
    zeta2: Annotated[float, Field(ge=0)] = 0.01
    relative: bool = True


class MasteringConfig(Section):
    """`mastering_rate`: attention to datasets whose prerequisites are mastered and which are not mastered themselves.

    `over: groups`: the groups form a chain, every dataset needs all of the group before. `over: datasets`: `requires`
    names each dataset's prerequisites. A dataset's mastering rate is 0 at its first loss and 1 at the loss it is
    expected to reach: `mastered_at` times the first, or `targets[dataset]`; a better loss seen moves it.
    """

    over: Literal["groups", "datasets"] = "groups"
    requires: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="dataset -> prerequisites")
    mastered_at: Annotated[float, Field(gt=0, lt=1)] = 0.4
    targets: dict[str, PositiveFloat] = Field(default_factory=dict, description="dataset -> loss")
    window: Annotated[int, Field(ge=2)] = Field(default=4, description="evaluations behind a rate and a slope")
    power: PositiveFloat = Field(default=6.0, description="how strictly prerequisites must be mastered")
    potential: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.6, description="share of what is left to learn in the attention; the rest is learning progress"
    )
    to_predecessors: Annotated[float, Field(ge=0, lt=1)] = 0.2
    to_successors: Annotated[float, Field(ge=0, lt=1)] = 0.05


class SaturationConfig(Section):
    """A dataset whose loss is flat falls to a floor share; it returns when its loss rises again."""

    enabled: bool = True
    evidence: PlateauConfig = PlateauConfig(detector="slope", window=8, min_gain=0.005, confidence=0.9)
    floor: Share = Field(default=0.1, description="share that is left, as a share of 1 / number of datasets")
    forgetting: PositiveFloat = Field(default=0.03, description="relative rise of the loss that returns the share")

    @model_validator(mode="after")
    def _has_an_interval(self) -> SaturationConfig:
        if self.evidence.detector in ("patience", "none"):
            raise ValueError("evidence: a dataset that looks flat may still fall; use detector slope or paired")
        return self


class AdvanceConfig(Section):
    """The next group enters when its predicted gain per token exceeds the upper bound of the pool's own.

    `forecast`: what the pool's gain is read from: a `power_law` through the stage's losses, or the plain `slope` of
    the last `window` evaluations. Without `enabled` stages end by `schedule.plateau`.
    """

    enabled: bool = True
    forecast: Literal["power_law", "slope"] = "power_law"
    window: Annotated[int, Field(ge=4)] = Field(default=5, description="evaluations needed in the stage")
    confidence: Confidence = 0.8
    margin: PositiveFloat = Field(default=1.0, description="the prediction counts this many times")


class StageLrConfig(Section):
    """Learning rate tied to stages: constant, a short re-warm at a switch, one final decay over all data."""

    enabled: bool = True
    rewarm_steps: Annotated[int, Field(ge=0)] = 10
    rewarm_floor: Share = 0.3
    all_in_decay: bool = Field(
        default=True, description="when the final decay begins, every group enters and no dataset is held at its floor"
    )


class RegroupConfig(Section):
    """At a stage boundary, datasets outside the pool may be grouped anew from the sketches of training.

    They are seen only because `explore` of the mixture is theirs. `margin`: how much further apart the new groups must
    be than the old ones, in median distances, on windows that did not make them and with this confidence.
    """

    enabled: bool = True
    explore: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    margin: Annotated[float, Field(ge=0)] = 0.1
    confidence: Confidence = 0.95
    min_windows: Annotated[int, Field(ge=3)] = Field(default=4, description="windows in which each pair was seen")


class AdaptiveConfig(Section):
    """`gst_adaptive`: every part can be switched off.

    `cost_aware`: gain per second in place of gain per token. Off by default, because measured seconds differ from run
    to run, and so then do the decisions.
    """

    saturation: SaturationConfig = SaturationConfig()
    advance: AdvanceConfig = AdvanceConfig()
    lr: StageLrConfig = StageLrConfig()
    policies: tuple[Literal["pike", "gram"], ...] = Field(
        default=("pike", "gram"), description="of the weights in the pool, one after the other; none: fixed weights"
    )
    regroup: RegroupConfig = RegroupConfig()
    cost_aware: bool = False


REGIMES = (
    "mix_all",
    "individual",
    "sequential",
    "gst",
    "gst_strict_cycle",
    "tpc",
    "ads",
    "tpc_ads",
    "gram",
    "pike",
    "mastering_rate",
    "gst_adaptive",
)
# Names of both papers, as `plain_name` writes them.
REGIME_ALIASES = {
    "parallel": "mix_all",
    "sm": "mix_all",
    "stochastic_mixing": "mix_all",
    "uniform_task_mixing": "mix_all",
    "progressive": "gst",
    "grouped_sequential_training": "gst",
    "strict_cycle": "gst_strict_cycle",
    "strict_cycle_sequential": "gst_strict_cycle",
    "task_progressive_curriculum": "tpc",
    "aligner_based_diverse_sampling": "ads",
    "hybrid": "tpc_ads",
}
ORDER_ALIASES = {"reverse_progressive": "reverse"}


def plain_name(name: Any) -> Any:
    """Names as the papers write them in the recipe's spelling: `Mix-all`, `TPC+ADS` -> `mix_all`, `tpc_ads`."""
    return re.sub(r"[\s+-]+", "_", name.strip().lower()) if isinstance(name, str) else name


def _order_name(name: Any) -> Any:
    return ORDER_ALIASES.get(plain_name(name), plain_name(name))


class ScheduleConfig(Section):
    """Which datasets are trained on, when, and with which weights."""

    regime: Annotated[str, BeforeValidator(plain_name)] = "mix_all"
    weights: WeightsConfig = WeightsConfig()
    grouping: Literal["gradient", "transferability", "random", "domain", "explicit", "singletons", "everything"] = (
        Field(default="gradient", description="singletons: each dataset a group of its own; everything: one group")
    )
    affinity: str | None = Field(
        default=None, description="folder of affinity versions that `gst group` wrote; None: <out>/affinity"
    )
    version: str = Field(default="latest", description="affinity version; pinned in the run's resolved recipe")
    explicit: tuple[tuple[str, ...], ...] | None = Field(default=None, description="groups in order")
    order: Annotated[Literal["progressive", "reverse", "random"] | None, BeforeValidator(_order_name)] = Field(
        default=None, description="None: as stored"
    )
    seed: int = Field(default=0, description="seed of random partitions and orders")
    plateau: PlateauConfig = PlateauConfig()
    stage: StageConfig = StageConfig()
    cycle: CycleConfig = CycleConfig()
    tpc: TpcConfig = TpcConfig()
    ads: AdsConfig = AdsConfig()
    reweight: ReweightConfig = ReweightConfig()
    gram: GramConfig = GramConfig()
    pike: PikeConfig = PikeConfig()
    mastering: MasteringConfig = MasteringConfig()
    adaptive: AdaptiveConfig = AdaptiveConfig()

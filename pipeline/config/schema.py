"""The recipe: one frozen, closed tree that describes a run. An unknown key is an error, never ignored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_serializer, model_validator

from pipeline.config.schedule import ScheduleConfig
from pipeline.config.section import Section
from pipeline.config.training import TrainConfig
from pipeline.config.urls import without_secrets


class LoraConfig(Section):
    """Low-rank adapters (peft) of every part of the model whose training is `lora`."""

    r: PositiveInt = 8
    alpha: PositiveInt = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="linear layers by the last part of their name; each part that learns by LoRA must have one",
    )
    dora: bool = Field(default=False, description="weight-decomposed: a learnt magnitude for each output beside it")
    rslora: bool = Field(default=False, description="rank-stabilised: scaled by alpha / sqrt(r) in place of alpha / r")


Training = Literal["frozen", "lora", "full"]


class PartsConfig(Section):
    """How each part of the model learns; what learns is what checkpoints and exports save.

    Which modules a part is made of is known by the model's family (`pipeline/models/family.py`).
    """

    encoder: Training = "frozen"
    aligner: Training = "full"
    llm: Training = "lora"

    @property
    def have_adapters(self) -> bool:
        return "lora" in (self.encoder, self.aligner, self.llm)

    def __str__(self) -> str:
        return f"encoder {self.encoder}, aligner {self.aligner}, llm {self.llm}"


class ModelConfig(Section):
    """Which `from_pretrained` folder or hub name to start from, and what of it learns."""

    path: str
    parts: PartsConfig = PartsConfig()
    lora: LoraConfig = LoraConfig()
    pad_audio: Literal["window", "longest"] = Field(
        default="window",
        description="window: clips are padded as the model's own processor does it, to its window (30 s); longest: to "
        "the longest clip of their micro-batch, where padding has no part in a clip's values (else an error)",
    )
    adapters: Literal["continue", "merge"] = Field(
        default="continue",
        description="where `path` is an export with adapters: these learn on, or are merged into what they adapt and, "
        "where parts learn by LoRA, new ones begin",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="every dropout rate of the model's own config; None: as the config says"
    )
    dtype: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="fp16 (with dynamic loss scaling) needs a GPU"
    )
    attention: Literal["auto", "sdpa", "flash", "eager"] = Field(
        default="auto",
        description="auto: flash-attn where installed, on a GPU in bf16 or fp16, else sdpa where the model has it",
    )


class FeaturesConfig(Section):
    """How clips become what the model takes, and what of it is kept on disk (made by `gst features`).

    `cache: log_mel` keeps the log-mel frames: training then decodes no audio; a clip that the cache lacks is computed
    anew. `cache: encoder` keeps the outputs of a frozen audio encoder, and the model runs without its encoder; the
    cache must be complete, for ranks that differ in what they compute would wait for each other for ever.
    """

    fast: bool = Field(
        default=True,
        description="our own log-mel where the front is Whisper's, equal to 1e-5; false: that of `transformers`",
    )
    cache: Literal["none", "log_mel", "encoder"] = "none"
    folder: str | None = Field(default=None, description="None: <out>/features; runs of any experiment may share one")

    @model_validator(mode="after")
    def _computed_here(self) -> FeaturesConfig:
        if self.cache != "none" and not self.fast:
            raise ValueError(f"cache: {self.cache} needs fast: true; the cache holds what that computes")
        return self


class CacheConfig(Section):
    """How shards are read that lie in an object store or on a web server; says nothing about a local folder.

    `mode: shards` copies a whole shard to `folder` when its first clip is wanted: for data that is read many times and
    fits there. `mode: ranges` fetches the bytes of each clip whenever it is wanted.
    """

    mode: Literal["shards", "ranges"] = "shards"
    folder: str | None = Field(
        default=None, description="None: audio-gst in $XDG_CACHE_HOME, which is ~/.cache where it is not set"
    )
    max_gb: PositiveFloat | None = Field(
        default=None, description="of shards in the folder, least recently read ones leave first; None: no limit"
    )
    timeout_s: PositiveFloat = Field(default=60.0, description="of one request; it fetches 8 MiB at most")
    tries: Annotated[int, Field(ge=5, le=100)] = Field(default=6, description="of one request")
    wait_s: PositiveFloat = Field(default=0.5, description="about, before the second try; it doubles with every try")
    give_up_s: PositiveFloat = Field(default=300.0, description="for all tries of one request together")


class DataConfig(Section):
    shards: str = Field(description="a folder, or any URL that fsspec opens: s3://, gs://, https:// ...")
    cache: CacheConfig = CacheConfig()
    datasets: tuple[str, ...] | None = Field(default=None, description="None: every prepared dataset")
    max_duration_s: PositiveFloat = 30.0
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    draw: Literal["deficit", "categorical"] = "deficit"
    min_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="least share of each dataset that is drawn, as a share of 1 / their number, whatever weights the "
        "schedule gives; the others give in proportion",
    )
    bucket: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="sort the clips of so many micro-batches of a dataset by duration and cut them into micro-batches "
        "anew, so that less is padded; best well below the dataset's own number. None: do not",
    )
    train_per_dataset: PositiveInt | None = Field(
        default=None, description="only so many training examples of each dataset, the same for every arm and seed"
    )

    features: FeaturesConfig = FeaturesConfig()

    @field_serializer("shards")
    def _shards_without_secrets(self, shards: str) -> str:
        """Recipes are saved, logged and hashed: a password in a URL is not part of them."""
        return without_secrets(shards)


AnswerKind = Literal["closed", "tags", "transcript", "caption", "open"]


class EvalConfig(Section):
    val_per_dataset: PositiveInt = Field(default=32, description="size of the fixed probe set of each dataset")
    test_per_dataset: PositiveInt | None = Field(default=None, description="None: the whole test split")
    micro_batch: PositiveInt = 8
    generate_per_dataset: Annotated[int, Field(ge=0)] | None = Field(
        default=0, description="test examples of each dataset that are answered freely; 0: none, None: all"
    )
    max_new_tokens: PositiveInt = Field(default=64, description="of a generated answer")
    kinds: dict[str, AnswerKind] = Field(
        default={}, description="task -> kind of its answers, where the one found from its name or answers is wrong"
    )


class SketchConfig(Section):
    """Gradient sketch taken in every backward of training.

    `mode: hook` sketches each micro-batch's own gradient before it is reduced. `mode: partition` sketches the reduced
    gradient of each optimizer step whose micro-batches, on all ranks, are of one dataset (other steps are skipped and
    counted): 1/W of the work, for ZeRO-3 and schedules that train on one dataset at a time. Within such a step all
    micro-batches count alike, as DeepSpeed averages them, whatever `weight` is.

    `gradient: adam` divides each element by Adam's sqrt(second moment) + eps, and leaves out elements that have had no
    gradient yet (no first moment: it is a trace of all datasets before). In training it needs `mode: partition`; a
    probe gathers the second moments once, after its warm-up, and divides every micro-batch's gradient by them, whatever
    `mode` is. `sign` takes each element's sign: of a micro-batch's gradient in hook mode, of the step's mean gradient
    in partition mode. The mean of signs is not the sign of the mean, so noisy elements count as much as clear ones, and
    neither agrees with the other or with `raw`; they are never mixed.
    """

    enabled: bool = True
    mode: Literal["hook", "partition"] = "hook"
    k: Annotated[int, Field(ge=32, le=2**20)] = Field(default=4096, description="a power of two")
    seed: int = 0
    gradient: Literal["raw", "adam", "sign"] = "raw"
    group_by: Literal["all", "kind", "layer_kind"] = "kind"
    weight: Literal["tokens", "equal"] = Field(
        default="tokens",
        description="of a micro-batch in its dataset's mean; tokens: the mean is the gradient of the loss per token",
    )
    window_steps: PositiveInt = Field(default=50, description="steps between two all-reduced summaries in the log")
    form: Literal["window", "ema"] = Field(
        default="window", description="what a summary is of: its window alone, or a moving average over windows"
    )
    half_life: Annotated[float, Field(ge=1)] = Field(
        default=64.0, description="of the moving average, in micro-batches of the dataset (steps in mode `partition`)"
    )
    second_seed_every: Annotated[int, Field(ge=0)] = Field(
        default=0, description="sketch about one micro-batch in this many under a second seed as well; 0: none"
    )

    @model_validator(mode="after")
    def _can_be_sketched(self) -> SketchConfig:
        if self.k & (self.k - 1):
            raise ValueError(f"k ({self.k}) must be a power of two")
        if self.gradient == "adam" and self.mode == "hook":
            raise ValueError(
                "gradient: adam needs mode: partition, because a hook sees the whole gradient while the optimizer's "
                "second moments are partitioned over ranks"
            )
        return self


class ProbeConfig(Section):
    """Warm-up at one common checkpoint, then gradients only: the data that groups are made from."""

    warmup_steps: Annotated[int, Field(ge=0)] = 30
    batches_per_dataset: Annotated[int, Field(ge=2)] = 16
    max_batches: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="go on past batches_per_dataset, up to this many, with datasets whose gradient is not clear yet: "
        "fewer micro-batches than twice the noise scale, or an interval wider than `width`; None: do not",
    )
    width: PositiveFloat | None = Field(
        default=None, description="wanted width of the distances' intervals, as a share of the median distance"
    )
    micro_batch: PositiveInt = 4

    @model_validator(mode="after")
    def _can_go_on(self) -> ProbeConfig:
        if self.max_batches is not None and self.max_batches < self.batches_per_dataset:
            raise ValueError(
                f"max_batches ({self.max_batches}) must be at least batches_per_dataset ({self.batches_per_dataset})"
            )
        return self


class TransferConfig(Section):
    """Transferability, the costly rival of gradient affinity: short trainings, and what they do to every loss.

    `source`: train on one dataset, score all; D trainings. `pair`: train on two, half and half, and score both;
    D (D + 1) / 2 trainings, a dataset with itself included. Either is done once per seed.
    """

    trainings: Literal["source", "pair"] = "source"
    steps: PositiveInt = 100
    seeds: PositiveInt = Field(default=1, description="repeats with other data order; 4 or more give intervals")


class AffinityConfig(Section):
    """How groups are made from sketches (`method: gradient`) or from short trainings (`method: transferability`)."""

    method: Literal["gradient", "transferability"] = "gradient"
    modules: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        default=None, description="parameter group -> weight, for a view of some modules only; None: the whole gradient"
    )
    metric: Literal["distance", "cosine"] = "distance"
    groups: Annotated[int, Field(ge=1)] | Literal["auto"] = 3
    order: Literal["progressive", "reverse", "random"] = "progressive"
    bootstrap: Annotated[int, Field(ge=10)] = 200
    seed: int = 0


class ServiceConfig(Section):
    """Where sketches, versions and events go: the experiment folder's own store, or a service that many jobs share."""

    url: str | None = Field(default=None, description="of `gst serve`; None: the store in <out>/affinity")
    token_file: str | None = Field(default=None, description="holds the service's write token; mode 600")
    project: str | None = Field(default=None, description="names this experiment in a shared store; None: name of out")
    contributor: str = Field(default="main", description="this job, among those that probe the same datasets together")
    contributors: tuple[str, ...] = Field(default=("main",), description="all of these jobs")
    push_windows: bool = Field(default=True, description="send the sketches of each window of training")
    timeout_s: PositiveFloat = Field(default=10.0, description="of one request")
    retries: Annotated[int, Field(ge=0, le=10)] = 3

    @model_validator(mode="after")
    def _is_a_contributor(self) -> ServiceConfig:
        if self.contributor not in self.contributors:
            raise ValueError(f"contributor ({self.contributor}) must be one of contributors {list(self.contributors)}")
        return self


class EngineConfig(Section):
    deepspeed: str = Field(default="cpu_zero3.json", description="a file, or a name in ds_configs/")


class LoggingConfig(Section):
    mlflow: bool = True
    tracking_uri: str | None = Field(default=None, description="None: SQLite store in the experiment folder")
    experiment: str = "audio-gst"


class Recipe(Section):
    """One run: an arm of an experiment with one seed."""

    arm: str
    out: str = Field(description="experiment folder; this run writes <out>/arms/<arm>-s<seed>")
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    eval: EvalConfig = EvalConfig()
    sketch: SketchConfig = SketchConfig()
    probe: ProbeConfig = ProbeConfig()
    transfer: TransferConfig = TransferConfig()
    affinity: AffinityConfig = AffinityConfig()
    service: ServiceConfig = ServiceConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    engine: EngineConfig = EngineConfig()
    logging: LoggingConfig = LoggingConfig()

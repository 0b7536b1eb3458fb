"""Small shared types and protocols; standard library only.

Shape letters used across the project: `D` datasets, `B` micro-batches (or batch), `K` sketch dimension,
`G` parameter groups, `P` parameters, `T` time or tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, get_args

Domain = Literal["speech", "music", "sound"]
Split = Literal["train", "val", "test"]

DOMAINS: tuple[str, ...] = get_args(Domain)
SPLITS: tuple[str, ...] = get_args(Split)


@dataclass(frozen=True)
class Qa:
    """One question about a clip. `answers` holds all references; `answer` is the first and the training target."""

    id: str
    task: str
    question: str
    answer: str
    answers: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "answers": list(self.answers or (self.answer,))}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Qa:
        return cls(
            id=value["id"],
            task=value["task"],
            question=value["question"],
            answer=value["answer"],
            answers=tuple(value.get("answers") or (value["answer"],)),
        )


@dataclass(frozen=True)
class Clip:
    """One audio clip with its questions: the JSON member of a shard sample.

    `source_keys` names the recording in its public source (`youtube`, `freesound`, `bbc`, `libritts` ...), so that
    leakage between corpora can be found by equality.
    """

    id: str
    dataset: str
    split: str
    domain: str
    duration_s: float
    sample_rate_hz: int
    qa: tuple[Qa, ...]
    source_keys: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "qa": [qa.to_json() for qa in self.qa]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Clip:
        return cls(**{**value, "qa": tuple(Qa.from_json(qa) for qa in value["qa"])})


class Stateful(Protocol):
    """Anything whose state belongs in a checkpoint. The state is plain JSON data and the same on every rank."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class DatasetScore:
    """Teacher-forced score of one dataset: sums over its examples, so that scores add over ranks.

    `loss_sum` is in nats over answer tokens; `correct` counts answer tokens whose argmax is right; `exact` counts
    examples with every answer token right.
    """

    loss_sum: float
    tokens: int
    correct: int
    examples: int
    exact: int

    @property
    def loss(self) -> float:
        return self.loss_sum / self.tokens if self.tokens else float("nan")

    @property
    def token_accuracy(self) -> float:
        return self.correct / self.tokens if self.tokens else float("nan")

    @property
    def exact_match(self) -> float:
        return self.exact / self.examples if self.examples else float("nan")

    def to_json(self) -> dict[str, float]:
        return {
            "loss": self.loss,
            "token_accuracy": self.token_accuracy,
            "exact_match": self.exact_match,
            "tokens": self.tokens,
            "examples": self.examples,
        }


@dataclass(frozen=True)
class ClipFeatures:
    """What a model's front made of a clip before, in the audio's place.

    Attributes:
        kind: `log_mel` or `encoder`, as in the recipe's `data.features.cache`.
        values: float32 array [channels, frames].
        n_samples: of the audio; also its `len`, as that of an array of samples.
    """

    kind: str
    values: Any
    n_samples: int

    def __len__(self) -> int:
        return self.n_samples


@dataclass(frozen=True)
class Example:
    """One training or evaluation example: a clip's audio with one of its questions.

    `audio` is a float32 array [T], mono, or `ClipFeatures` where a run reads them from a cache; None: there is only
    text.
    """

    id: str
    dataset: str
    audio: Any
    sample_rate_hz: int
    question: str
    answer: str
    answers: tuple[str, ...] = ()
    task: str = ""


MIXED = "(mixed)"  # `MicroBatch.dataset` where there are several; no dataset can have this name


@dataclass(frozen=True)
class MicroBatch:
    """Examples of one dataset, encoded for the model; of several only where batches are drawn by cluster.

    `inputs` are the model's keyword arguments (tensors, `labels` with -100 outside the answer). `counted` is False
    for the filler that keeps ranks in step during evaluation: run it, do not score it. `datasets` is None for one
    dataset; otherwise it names each example's, and `dataset` is `MIXED`: its gradient belongs to no dataset.
    `questions` are what was asked in each example, for results example by example: no audio.
    """

    dataset: str
    example_ids: tuple[str, ...]
    inputs: dict[str, Any]
    audio_s: float
    counted: bool = True
    datasets: tuple[str, ...] | None = None
    questions: tuple[Qa, ...] = ()


@dataclass(frozen=True)
class GradientPartition:
    """This rank's slice of one parameter's reduced gradient, at the end of an optimizer step's last backward.

    Attributes:
        name: the parameter's name in the engine's module.
        gradient: flat tensor; may be padded beyond the parameter's end.
        offset: index in the whole parameter of the slice's first element.
        numel: elements of the whole parameter.
        denominator: Adam's sqrt(second moment) + eps for the same elements, infinite where that moment is 0; when it
            was asked for.
    """

    name: str
    gradient: Any
    offset: int
    numel: int
    denominator: Any = None


@dataclass(frozen=True)
class Spent:
    """What training on one dataset took so far: sums over ranks and steps. `seconds` are of forward and backward."""

    examples: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class EvalPoint:
    """One evaluation on the fixed probe set, with the run's clock at that moment (all counts are global).

    `spent` is for schedules that weigh gain against cost; empty where nobody measured. What is measured differs from
    run to run, so decisions that rest on it do too.
    """

    step: int
    samples: int
    tokens: int
    scores: dict[str, DatasetScore]
    spent: dict[str, Spent] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """What a schedule decided at an evaluation or from a window of gradients, with the numbers it decided on.

    Attributes:
        pool: the datasets (or units, see `pipeline.schedule.stages`) that have entered.
        weights: of every dataset or unit from now on; they may change without a new stage.
        advanced: a new stage begins.
        reset: it begins from the base weights with a fresh optimizer.
    """

    stage: int
    pool: tuple[str, ...]
    weights: dict[str, float]
    advanced: bool
    reason: dict[str, Any]
    reset: bool = False


class Controller(Stateful, Protocol):
    """A schedule in motion: it sees every evaluation and says what to train on next."""

    @property
    def stage(self) -> int: ...

    @property
    def weights(self) -> dict[str, float]:
        """Sampling weight of every dataset (or unit) now; they sum to 1 and are 0 for what is not drawn."""
        ...

    @property
    def due_step(self) -> int | None:
        """The step at which it wants an evaluation, whatever the interval; None: at no particular one."""
        ...

    def lr_factor(self, step: int) -> float:
        """Multiplier of the base learning rate for optimizer step `step` (the first is 1)."""
        ...

    def observe(self, point: EvalPoint) -> Decision: ...

    def observe_gradients(self, step: int, stats: Any) -> Decision | None:
        """Take a closed window of sketches over all ranks into account (`pipeline.affinity.estimator.GradientStats`).

        None: nothing changes.
        """
        ...


@dataclass
class Clock:
    """How far the run is; counts are global, `wall_s` is time spent in the loop, without downtime."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    wall_s: float = 0.0

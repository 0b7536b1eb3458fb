"""What `gst plan` estimates: answer tokens from a sample of the data, times from a finished run."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Recipe, load_recipe
from pipeline.data.index import ShardIndex
from pipeline.data.pools import Pool
from pipeline.errors import AudioError, ConfigError
from pipeline.grid.estimate import seconds_of
from pipeline.models.load import load_processor
from pipeline.runlog.events import read_event_lines
from pipeline.schedule.expected import ExpectedStage

SAMPLE_EXAMPLES = 64  # of each dataset or unit
_SAMPLE_SEED = 20_260_519
# What a step takes depends on these before all.
_DECISIVE = (
    "model.path",
    "model.parts",
    "model.dtype",
    "data.max_duration_s",
    "train.global_batch",
    "train.micro_batch",
    "sketch.enabled",
    "engine.deepspeed",
)


def mean_answer_tokens(recipe: Recipe, index: ShardIndex, pools: Mapping[str, Pool]) -> dict[str, float]:
    """Pool -> tokens that an example of it has labels for, on average over a sample: the answer and its end.

    Reads annotations, no audio; examples with a damaged one are left out.

    Raises:
        ModelError: the recipe's model has no processor that can be loaded.
        ShardError: as `ShardIndex.read`.
    """
    tokenizer = load_processor(recipe.model.path).tokenizer
    means = {}
    for name, pool in pools.items():
        answers = list(_answers(index, pool))
        counts = [1 + len(ids) for ids in tokenizer(answers, add_special_tokens=False)["input_ids"]] if answers else [0]
        means[name] = statistics.fmean(counts)
    return means


def _answers(index: ShardIndex, pool: Pool) -> Iterable[str]:
    for position in range(min(len(pool), SAMPLE_EXAMPLES)):
        dataset, number = pool.at(_SAMPLE_SEED, position)
        try:
            yield index.read_qa(dataset, "train", number).answer
        except AudioError:
            continue


@dataclass(frozen=True)
class Pace:
    """Seconds of a step and of an evaluation: medians of a finished run; and of its test split, if it had one."""

    step: float
    evaluation: float
    test: float | None

    def of(self, stages: Iterable[ExpectedStage]) -> float:
        """Training and evaluations of some stages."""
        return sum(stage.steps * self.step + stage.evaluations * self.evaluation for stage in stages)


def pace_of(run: Path) -> Pace:
    """From the run's event log; ConfigError when it has no two steps, or no evaluation."""
    steps, evaluations, tests = seconds_of(read_event_lines(run / "events-rank0.jsonl")[0])
    if not (steps and evaluations):
        raise ConfigError(
            "no times can be taken from this run",
            where={"option": "--like", "folder": run},
            got=f"{len(steps)} steps and {len(evaluations)} evaluations in its event log",
            hint="give the folder of a finished run, <out>/arms/<arm>-s<seed>",
        )
    return Pace(statistics.median(steps), statistics.median(evaluations), tests[-1] if tests else None)


def unlike(recipe: Recipe, run: Path) -> list[str]:
    """In words, what makes the run's steps another thing than this recipe's."""
    path = run / "recipe.yaml"
    if not path.is_file():
        return []
    other = load_recipe(str(path), ())
    both = {key: (_value(other, key), _value(recipe, key)) for key in _DECISIVE}
    return [f"{key} is {there} there and {here} here" for key, (there, here) in both.items() if there != here]


def _value(recipe: Recipe, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), recipe)

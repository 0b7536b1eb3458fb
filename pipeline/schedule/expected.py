"""What a plan comes to in steps, samples and epochs, as far as that is known before the run.

A stage that may end because it is flat, or because the next group is worth more, is counted with all the steps that its
limits leave it: how long it really takes is what the run finds out. What it leaves over goes to the stages after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.config.schema import Recipe
from pipeline.data.mixture import Mixture
from pipeline.schedule.limits import at_stage, deadline, decay_start
from pipeline.schedule.stages import Stage, StagePlan, dataset_of

ALL_CLUSTERS = "(clusters)"


def sum_known(values: Iterable[float | None]) -> float | None:
    """None when one of them is not known."""
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)


@dataclass(frozen=True)
class Expected:
    """What one dataset or unit gives to a stage, or all clusters together.

    Attributes:
        weight: share of the stage's samples, with `data.min_share`.
        train: its training examples.
        tokens: of answers; None: not known.
    """

    name: str
    weight: float
    train: int
    samples: float
    tokens: float | None

    @property
    def epochs(self) -> float:
        return self.samples / self.train


@dataclass(frozen=True)
class ExpectedStage:
    """One stage of the plan; in a cycle, all visits to it together.

    Attributes:
        evaluations: that fall into it.
        assumed: no limit says when it ends, so it was given an equal share of what was left.
        parts: what it draws from, in the order of the pool.
    """

    number: int
    steps: int
    visits: int
    evaluations: int
    assumed: bool
    parts: tuple[Expected, ...]

    @property
    def samples(self) -> float:
        return sum(part.samples for part in self.parts)

    @property
    def tokens(self) -> float | None:
        """Of answers; None when that of a part is not known."""
        return sum_known(part.tokens for part in self.parts)


@dataclass(frozen=True)
class _Visit:
    stage: int
    first: int
    end: int
    assumed: bool


def expected_stages(
    recipe: Recipe,
    plan: StagePlan,
    sizes: Mapping[str, int],
    tokens_per_example: Mapping[str, float] | None = None,
) -> list[ExpectedStage]:
    """Every stage of `plan` with its steps and what they draw.

    Args:
        sizes: dataset or unit -> training examples, of every name in the plan.
        tokens_per_example: mean answer tokens of each of these names; None: not known, and then limits in tokens are
            left out of account.
    """
    parts = [_parts_of_a_sample(recipe, stage, sizes, tokens_per_example) for stage in plan.stages]
    visits = _visits(recipe, plan, [sum_known(share.tokens for share in shares) for shares in parts])
    stages = []
    for number, shares in enumerate(parts):
        mine = [visit for visit in visits if visit.stage == number]
        steps = sum(visit.end - visit.first for visit in mine)
        stages.append(
            ExpectedStage(
                number,
                steps,
                len(mine),
                sum(_evaluations(recipe, visit) for visit in mine),
                any(visit.assumed for visit in mine),
                tuple(_times(share, steps * recipe.train.global_batch) for share in shares),
            )
        )
    return stages


def whole_run(stages: Iterable[ExpectedStage], sizes: Mapping[str, int]) -> list[Expected]:
    """What each dataset, and all clusters together, give to all stages; in name order."""
    parts = [part for stage in stages for part in stage.parts]
    total = sum(part.samples for part in parts)
    found = []
    for name in sorted({dataset_of(part.name) for part in parts}):
        mine = [part for part in parts if dataset_of(part.name) == name]
        samples = sum(part.samples for part in mine)
        found.append(
            Expected(
                name, samples / total, sizes.get(name, mine[0].train), samples, sum_known(part.tokens for part in mine)
            )
        )
    return found


def _parts_of_a_sample(
    recipe: Recipe, stage: Stage, sizes: Mapping[str, int], tokens: Mapping[str, float] | None
) -> list[Expected]:
    """What one sample of a stage is made of, on average."""
    if stage.source == "clusters":  # how much of each dataset they hold shows when they are made
        train = sum(sizes[name] for name in stage.pool)
        mean = None if tokens is None else sum(tokens[name] * sizes[name] for name in stage.pool) / train
        return [Expected(ALL_CLUSTERS, 1.0, train, 1.0, mean)]
    data = recipe.data
    weights = Mixture(stage.pool, 0, stage.weights, data.draw, data.min_share).weights
    return [
        Expected(
            name, weights[name], sizes[name], weights[name], None if tokens is None else weights[name] * tokens[name]
        )
        for name in stage.pool
    ]


def _times(part: Expected, samples: int) -> Expected:
    tokens = None if part.tokens is None else part.tokens * samples
    return Expected(part.name, part.weight, part.train, part.samples * samples, tokens)


def _visits(recipe: Recipe, plan: StagePlan, tokens: list[float | None]) -> list[_Visit]:
    """The stages one after another until the budget is used up."""
    budget, last = recipe.train.max_steps, len(plan.stages) - 1
    decay = decay_start(recipe) if plan.regime == "gst_adaptive" else None
    visits: list[_Visit] = []
    entered = number = 0
    while entered < budget:
        if decay is not None and entered >= decay:
            number = last
        end, assumed = _end(recipe, plan, number, entered, tokens[number], decay)
        visits.append(_Visit(number, entered, min(end, budget), assumed))
        entered, number = end, (number + 1) % len(plan.stages)
    return visits


def _end(
    recipe: Recipe, plan: StagePlan, number: int, entered: int, tokens: float | None, decay: int | None
) -> tuple[int, bool]:
    """The step that ends a stage entered after step `entered`, and whether that is an assumption."""
    budget, last, limits = recipe.train.max_steps, len(plan.stages) - 1, recipe.schedule.stage
    if number == last and not plan.cycle:
        return budget, False
    found = []
    latest = deadline(plan.stages[number], number, limits, entered_step=entered, max_steps=budget)
    if latest is not None:
        found.append(latest[0])
    max_tokens = at_stage(limits.max_tokens, number)
    if max_tokens is not None and tokens:
        found.append(entered + math.ceil(max_tokens / (tokens * recipe.train.global_batch)))
    until = budget if decay is None else decay
    if found:
        return min(*found, until), False
    sharing = last + 1 - number if decay is None else last - number
    return entered + max(1, round((until - entered) / sharing)), True


def _evaluations(recipe: Recipe, visit: _Visit) -> int:
    """Evaluations after the steps of a visit; the run's first one is before its first step."""
    every = recipe.train.eval_every
    return visit.end // every - visit.first // every + (visit.first == 0)

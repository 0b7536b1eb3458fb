"""What a window of sketches says to a policy, and the policies that listen to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.affinity.estimator import GradientStats, GramEstimate, corrected_gram
from pipeline.config.schema import Recipe
from pipeline.data.mixture import with_floor
from pipeline.schedule.policies.gram import gram_shares
from pipeline.schedule.policies.pike import pike_shares
from pipeline.schedule.shares import Array, Shares, retarget, step_towards

FEWEST = 2  # micro-batches without which noise cannot be told from signal


def seen_gram(stats: GradientStats, among: Mapping[str, float]) -> GramEstimate | None:
    """The corrected Gram matrix of the datasets with enough micro-batches; None when fewer than two of them are there.

    Args:
        among: only these are looked at.
    """
    weight, weight_sq = stats.weights
    enough = (stats.count >= FEWEST) & (weight**2 > weight_sq)
    seen = [name for name, is_enough in zip(stats.datasets, enough, strict=True) if is_enough and name in among]
    return corrected_gram(stats.select(seen)) if len(seen) > 1 else None


def follow_gradients(
    shares: Shares, estimate: GramEstimate, policies: tuple[str, ...], recipe: Recipe
) -> tuple[Shares, dict[str, Any]]:
    """New shares after one window, under the recipe's floor and cap on change, and the numbers for the log.

    Datasets that the window did not see keep their share, up to the floors and the cap.
    """
    schedule = recipe.schedule
    micro_batches = recipe.train.global_batch / recipe.train.micro_batch

    def rule(held: Array) -> Array:
        for policy in policies:
            if policy == "pike":
                held = pike_shares(held, estimate.gram.diagonal(), estimate.noise, micro_batches, schedule.pike)
            else:
                held = gram_shares(held, estimate.gram, schedule.gram.sharpness)
        return held

    target = retarget(shares, estimate.datasets, rule)
    floor = schedule.reweight.floor / len(shares)
    seen = with_floor({name: target[name] for name in estimate.datasets}, floor)
    new = step_towards(shares, {**target, **seen}, schedule.reweight.max_change)
    numbers = {
        "policies": list(policies),
        "seen": len(estimate.datasets),
        "changed": sum(abs(new[name] - shares[name]) for name in shares) / 2,
        "wanted": {name: round(share, 6) for name, share in target.items()},
    }
    return new, numbers

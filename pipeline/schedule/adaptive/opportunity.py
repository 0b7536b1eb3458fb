"""When is another group worth more than the pool? The opportunity cost of training on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.config.schedule import AdvanceConfig
from pipeline.schedule.adaptive.forecast import pool_gain
from pipeline.schedule.shares import Array
from pipeline.schedule.state import CurvesByDataset


def worth_entering(
    losses: CurvesByDataset,
    clock: Sequence[float],
    *,
    pool: Sequence[str],
    group: Sequence[str],
    since: int,
    cost_ratio: float,
    config: AdvanceConfig,
) -> tuple[bool, dict[str, Any]]:
    """Whether `group`'s predicted gain exceeds the upper bound of the pool's own, with the numbers.

    A gain is the sum over datasets of the relative fall of their validation losses, per token. The pool's is read off
    its mean relative loss since the stage began (`pool_gain`). A group that has not entered is predicted to gain, per
    token of its own, what the pool's datasets gained per token since the run began, less what it already gained from
    that training by transfer:

        predicted = D_pool * (mean log fall of the pool - mean log fall of the group) / clock

    Args:
        losses: of every dataset at every evaluation of the run; clock: [T] its readings at these.
        since: evaluation at which the stage began.
        cost_ratio: seconds per token of the pool over those of the group; 1 when cost does not count.
    """
    members = _matrix(losses, pool, since)
    relative = members[:, since:] / members[:, since : since + 1]
    gain = pool_gain(np.array(clock[since:]), relative.mean(0), config)
    if gain is None:
        return False, {"advance": "too few evaluations"}
    pool_fall, group_fall = _fall(members), _fall(_matrix(losses, group, since))
    predicted = len(members) * max(pool_fall - group_fall, 0.0) / (clock[-1] - clock[0])
    upper = len(members) * gain.upper
    numbers = {
        "predicted_gain": predicted * cost_ratio,
        "pool_gain": len(members) * gain.now,
        "pool_gain_upper": upper,
        "pool_fall": pool_fall,
        "group_fall": group_fall,
        "cost_ratio": cost_ratio,
        **gain.numbers,
    }
    return bool(predicted * cost_ratio * config.margin > upper), numbers


def _matrix(losses: CurvesByDataset, names: Sequence[str], since: int) -> Array:
    """[D, T] of the datasets whose relative fall is known: losses above 0 at the first, at the last evaluation and at
    `since`; NaN elsewhere where one is missing. One flat row when there is no such dataset."""
    rows = np.array([[np.nan if value is None else value for value in losses[name]] for name in sorted(names)])
    scored = (rows[:, [0, since, -1]] > 0).all(1)
    return rows[scored] if scored.any() else np.ones((1, rows.shape[1]))


def _fall(rows: Array) -> float:
    return float(np.log(rows[:, 0] / rows[:, -1]).mean())

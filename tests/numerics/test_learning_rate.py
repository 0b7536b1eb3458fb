"""Learning-rate schedules against torch's, transformers' and pytorch_optimizer's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_optimizer.lr_scheduler.rex import REXScheduler
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_inverse_sqrt_schedule,
    get_linear_schedule_with_warmup,
    get_wsd_schedule,
)

from pipeline.config.training import LrScheduleConfig
from pipeline.schedule.lr import lr_factor

STEPS, WARMUP = 60, 12
KINDS = ("constant", "linear", "cosine", "inverse_sqrt", "wsd", "infinite", "one_cycle", "rex")


def ours(steps: int = STEPS, switches: tuple[int, ...] = (), **keys: Any) -> list[float]:
    config = LrScheduleConfig(**keys)
    return [lr_factor(config, step, steps, switches) for step in range(1, steps + 1)]


def theirs(make: Callable[[torch.optim.Optimizer], Any], steps: int = STEPS) -> list[float]:
    """Factors that a scheduler gives at its counts 0 .. steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(steps + 1):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(factors) <= steps:
            scheduler.step()
    return factors


@pytest.mark.parametrize(
    ("keys", "make"),
    [
        ({"kind": "constant"}, lambda o: get_constant_schedule_with_warmup(o, WARMUP)),
        ({"kind": "linear"}, lambda o: get_linear_schedule_with_warmup(o, WARMUP, STEPS)),
        (
            {"kind": "cosine", "min_share": 0.1},
            lambda o: get_cosine_with_min_lr_schedule_with_warmup(o, WARMUP, STEPS, min_lr_rate=0.1),
        ),
        ({"kind": "inverse_sqrt"}, lambda o: get_inverse_sqrt_schedule(o, WARMUP)),
        ({"kind": "inverse_sqrt", "timescale": 40}, lambda o: get_inverse_sqrt_schedule(o, WARMUP, timescale=40)),
        (
            {"kind": "wsd", "decay_share": 0.4, "min_share": 0.2},
            lambda o: get_wsd_schedule(o, WARMUP, 24, STEPS, decay_type="linear", min_lr_ratio=0.2),
        ),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_the_schedule_is_that_of_transformers(keys: dict[str, Any], make: Callable[..., Any]) -> None:
    """They count from 0 and so spend a step at rate 0; ours climbs one step earlier and falls alike."""
    mine, other = ours(warmup_steps=WARMUP, **keys), theirs(make)
    if keys["kind"] != "wsd":  # whose climb begins at min_lr_ratio there
        assert mine[:WARMUP] == pytest.approx([share * mine[WARMUP] for share in other[1 : WARMUP + 1]])
    assert mine[WARMUP:] == pytest.approx(other[WARMUP:-1])


def test_one_cycle_is_that_of_torch() -> None:
    def make(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=1.0, total_steps=STEPS, pct_start=WARMUP / STEPS, div_factor=25, final_div_factor=100
        )

    mine = ours(kind="one_cycle", warmup_steps=WARMUP, start_share=1 / 25, min_share=1 / 2500)
    assert mine == pytest.approx(theirs(make, STEPS - 1))


def test_rex_is_that_of_pytorch_optimizer() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = REXScheduler(optimizer, total_steps=STEPS - WARMUP, max_lr=1.0, min_lr=0.05)
    expected = [scheduler.step() for _ in range(STEPS - WARMUP - 1)]  # it took its first step when it was made
    assert ours(kind="rex", warmup_steps=WARMUP, min_share=0.05)[WARMUP:] == pytest.approx([1.0, *expected])


def test_infinite_falls_holds_through_stages_and_anneals() -> None:
    factors = ours(
        100, kind="infinite", warmup_steps=10, cooldown_share=0.2, constant_share=0.4, decay_share=0.3, min_share=0.1
    )
    assert factors[9] == 1 and factors[10] == 1
    assert factors[20] == pytest.approx(0.7)  # half-way down the cosine
    assert factors[30:71] == pytest.approx([0.4] * 41)
    assert factors[71:] == pytest.approx([0.1 + 0.3 * left / 30 for left in range(29, 0, -1)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warmup", [0, 1, 7, STEPS, STEPS + 5])
def test_every_schedule_stays_between_nothing_and_its_peak(kind: str, warmup: int) -> None:
    for steps in (1, 2, STEPS):
        factors = ours(steps, kind=kind, warmup_steps=warmup)
        assert all(0 <= factor <= 1 for factor in factors)
        assert any(factor > 0 for factor in factors)
        again = ours(steps, kind=kind, warmup_steps=warmup)
        assert again == factors


def test_the_default_is_warm_up_hold_and_linear_decay_to_the_bit() -> None:
    """The formula of the first recipes, whose numbers must not change."""
    for step in range(1, 361):
        first = min(1.0, step / 20) * min(1.0, (360 - step + 1) / 108)
        assert lr_factor(LrScheduleConfig(warmup_steps=20, decay_share=0.3), step, 360) == first


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "one_cycle"])
def test_a_switch_dips_any_schedule_and_lets_it_climb_back(kind: str) -> None:
    still = ours(kind=kind, warmup_steps=5)
    dipped = ours(kind=kind, warmup_steps=5, rewarm_steps=4, rewarm_floor=0.2, switches=(30,))
    ratio = [after / before for before, after in zip(still, dipped, strict=True)]
    assert ratio[:30] == [1] * 30 and ratio[34:] == [1] * (STEPS - 34)
    assert ratio[30:34] == pytest.approx([0.4, 0.6, 0.8, 1.0])

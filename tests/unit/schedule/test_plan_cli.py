"""What `gst plan` says of a schedule beside its shares."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.cli.plan import moving_parts, stage_end
from pipeline.schedule import build_plan
from tests.unit.schedule.builders import DOMAINS, SIZES, make_recipe


@pytest.mark.parametrize(
    ("schedule", "ends"),
    [
        ({"regime": "mix_all"}, ["with the budget, step 100"]),
        ({"regime": "individual"}, ["by step 10", "by step 30", "by step 60", "with the budget, step 100"]),
        ({"regime": "gst", "stage": {"max_share": 0.3, "min_tokens": 7}},
         ["plateau (slope) or 30 steps (max_share); not flat before 7 tokens"] * 2 + ["with the budget, step 100"]),
        ({"regime": "gst", "plateau": {"detector": "none"}, "stage": {"max_tokens": [5, 9]}},
         ["5 tokens", "9 tokens", "with the budget, step 100"]),
        ({"regime": "gst_strict_cycle"}, [f"plateau (slope) or {n} steps (visit share)" for n in (15, 15, 20)]),
        ({"regime": "gst_adaptive"},
         ["opportunity (power_law) or step 70 (final decay)"] * 2 + ["with the budget, step 100"]),
    ],
)  # fmt: skip
def test_the_rules_that_end_a_stage_are_said(schedule: dict[str, Any], ends: list[str]) -> None:
    recipe = make_recipe({"grouping": "domain", "order": "progressive", **schedule})
    plan = build_plan(recipe, SIZES, DOMAINS)
    assert [stage_end(recipe, plan, number) for number in range(len(plan.stages))] == ends


def test_the_parts_that_move_are_listed_with_their_switches() -> None:
    assert moving_parts(make_recipe({"regime": "gst"})) == []
    lines = moving_parts(make_recipe({"regime": "gst_adaptive", "adaptive": {"policies": []}}))
    assert sum(line.startswith("[x]") for line in lines) == 5 and len(lines) == 7
    assert "[ ] weights follow gradients ()" in lines

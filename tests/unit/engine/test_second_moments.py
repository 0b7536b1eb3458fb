"""What a gradient is divided by under `sketch.gradient: adam`, and where a probe refuses to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pipeline.engine import second_moments
from pipeline.engine.second_moments import adam_denominator, require_whole_denominators, whole_adam_denominators
from pipeline.errors import SketchError


def engine_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int, skipped: int = 0, stage: int = 3):
    """The attributes that are read of a DeepSpeedEngine."""
    return SimpleNamespace(
        module=model,
        optimizer=optimizer,
        basic_optimizer=optimizer,
        global_steps=steps,
        skipped_steps=skipped,
        zero_optimization_stage=lambda: stage,
    )


def test_the_denominator_is_the_one_of_torchs_own_step() -> None:
    """An AdamW step is lr * m_hat / denominator, so it can be read off a step; skipped steps do not count."""
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.9, 0.98), eps=1e-3, weight_decay=0.0)
    for _ in range(4):
        model.weight.grad = torch.randn(3, 5)
        model.weight.grad[:, 2] = 0.0
        before = model.weight.detach().clone()
        optimizer.step()
    state = optimizer.state[model.weight]
    first = state["exp_avg"] / (1 - 0.9**4)
    found = adam_denominator(engine_of(model, optimizer, steps=6, skipped=2), state["exp_avg_sq"])
    moved = (before - model.weight.detach()) / 0.1
    assert torch.allclose(first / found, moved, atol=1e-5)
    assert torch.isinf(found[:, 2]).all() and torch.isfinite(found[:, :2]).all()


def test_what_cannot_work_is_said_before_a_warm_up_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(5, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    require_whole_denominators(engine_of(model, optimizer, 0))
    with pytest.raises(SketchError) as caught:
        require_whole_denominators(engine_of(model, optimizer, 0, stage=2))
    assert (caught.value.got, caught.value.expected) == (2, 3)
    monkeypatch.setattr(second_moments, "MAX_DENOMINATOR_BYTES", 4 * 18)
    require_whole_denominators(engine_of(model, optimizer, 0))
    monkeypatch.setattr(second_moments, "MAX_DENOMINATOR_BYTES", 4 * 18 - 1)
    with pytest.raises(SketchError, match="do not fit"):
        require_whole_denominators(engine_of(model, optimizer, 0))


def test_without_a_step_there_are_none() -> None:
    model = torch.nn.Linear(5, 3)
    with pytest.raises(SketchError, match="no second moments yet") as caught:
        whole_adam_denominators(engine_of(model, torch.optim.AdamW(model.parameters()), steps=3, skipped=3))
    assert "warmup_steps" in str(caught.value)

"""Merging, the best so far and its metrics: what needs no engine."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.config.training import KeepBestConfig
from pipeline.engine.averaging import merge_weights
from pipeline.engine.optimizers.sophia import sampled
from pipeline.engine.strategies import BestSoFar
from pipeline.errors import ConfigError
from pipeline.models.loss import AnswerTokens


@pytest.mark.parametrize("kind", ["uniform", "cosine", "one_minus_sqrt", "ema"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_merge_weights_are_a_mean(kind: str, count: int) -> None:
    weights = merge_weights(kind, count, decay=0.8)
    assert len(weights) == count and sum(weights) == pytest.approx(1) and min(weights) > 0


def test_merging_equals_training_on_with_decayed_updates() -> None:
    """WSM's identity: the merged weights are the first plus each update scaled by the decay it stands for."""
    start, updates = 3.0, [0.5, -0.2, 0.7, 0.1]
    snapshots = [start + sum(updates[:done]) for done in range(len(updates) + 1)]
    for kind, scale in (("uniform", lambda t: 1 - t), ("one_minus_sqrt", lambda t: 1 - math.sqrt(t))):
        merged = sum(w * s for w, s in zip(merge_weights(kind, 5, 0.9), snapshots, strict=True))
        decayed = start + sum(update * scale((number + 1) / 5) for number, update in enumerate(updates))
        assert merged == pytest.approx(decayed)


def test_newer_snapshots_count_more_in_a_moving_average() -> None:
    assert merge_weights("ema", 3, decay=0.5) == pytest.approx([1 / 7, 2 / 7, 4 / 7])


def test_the_best_is_remembered_and_comes_back_from_its_state() -> None:
    best = BestSoFar(KeepBestConfig(metric="val/a/loss"), ["a", "b"])
    losses = [(0, 0.1), (5, 3.0), (10, 2.0), (15, float("nan")), (20, 2.0), (25, 2.5), (30, 1.0)]
    improved = [step for step, loss in losses if best.improves(step, {"val/a/loss": loss})]
    assert improved == [5, 10, 30]  # the untrained model does not count; equal is not better
    again = BestSoFar(KeepBestConfig(metric="val/a/loss"), ["a", "b"])
    again.load_state_dict(best.state_dict())
    assert (again.step, again.value) == (30, 1.0) and not again.improves(35, {"val/a/loss": 1.0})
    fresh = BestSoFar(KeepBestConfig(metric="val/a/loss"), ["a"])
    fresh.load_state_dict(BestSoFar(KeepBestConfig(), ["a"]).state_dict())
    assert fresh.step is None and fresh.improves(5, {"val/a/loss": 9.0})


def test_a_metric_of_an_unknown_dataset_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such metric") as caught:
        BestSoFar(KeepBestConfig(metric="val/clotoh/loss"), ["clotho", "macs"])
    assert caught.value.hint == "did you mean 'val/clotho/loss'?"


def test_sampled_tokens_follow_the_models_own_chances_and_stay_in_their_places() -> None:
    labels = torch.full((4000, 3), -100)
    labels[:, 2] = 1
    tokens = AnswerTokens.of(labels)
    logits = torch.tensor([0.5, 0.25, 0.25, 0.0]).log().expand(4000, 4)
    drawn = sampled(logits, tokens, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.rows, tokens.rows) and (drawn.places == 1).all() and drawn.examples == 4000
    shares = torch.bincount(drawn.targets, minlength=4) / 4000
    assert shares.tolist() == pytest.approx([0.5, 0.25, 0.25, 0.0], abs=0.03)
    again = sampled(logits, tokens, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.targets, again.targets)

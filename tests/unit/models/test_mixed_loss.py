"""Accounts per dataset of a micro-batch that mixes them."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.loss import AnswerTokens, answer_loss, share_out, step_loss

DATASETS = ("b", "a", "b", "c")


def test_sums_are_those_of_each_datasets_examples_alone() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 6, 9, requires_grad=True), torch.randint(9, (4, 6))
    for row in range(4):
        labels[row, : row + 1] = -100
    tokens = AnswerTokens.of(labels)
    loss = step_loss(logits[tokens.rows, tokens.places], tokens, share_out(tokens, "(mixed)", DATASETS), 0.1)
    got = {
        share.dataset: (value, share.tokens, share.examples)
        for share, value in zip(loss.shares, loss.sums.tolist(), strict=True)
    }
    assert list(got) == ["b", "a", "c"]
    for name, (loss_sum, tokens, examples) in got.items():
        rows = [row for row, each in enumerate(DATASETS) if each == name]
        chances = logits.detach().log_softmax(-1)
        alone = -sum(
            float(chances[row, t - 1, labels[row, t]]) for row in rows for t in range(1, 6) if labels[row, t] != -100
        )
        assert loss_sum == pytest.approx(alone, rel=1e-5)
        assert (tokens, examples) == (sum(5 - row for row in rows), len(rows))
    whole = answer_loss(logits, labels, label_smoothing=0.1)
    assert sum(loss for loss, _, _ in got.values()) == pytest.approx(whole.loss_sum, rel=1e-6)
    assert (sum(t for _, t, _ in got.values()), sum(n for _, _, n in got.values())) == (whole.tokens, whole.examples)

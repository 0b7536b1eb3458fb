"""Label smoothing and dropout: what is learnt from, and what is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.config.schema import ModelConfig
from pipeline.models.load import load_model
from pipeline.models.loss import answer_loss
from tests.parts import ALL_FULL


def test_label_smoothing_changes_what_is_learnt_from_and_not_what_is_reported() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    labels[:, :2] = -100
    plain, smooth = answer_loss(logits, labels), answer_loss(logits, labels, 0.1)
    assert (smooth.loss_sum, smooth.tokens, smooth.correct) == (plain.loss_sum, plain.tokens, plain.correct)
    chances = logits[:, 1:-1].log_softmax(-1).reshape(-1, 7)
    picked = chances.gather(1, labels[:, 2:].reshape(-1, 1))[:, 0]
    assert float(smooth.mean) == pytest.approx(float(-(0.9 * picked + 0.1 * chances.mean(-1)).mean()), rel=1e-5)
    assert torch.equal(answer_loss(logits, labels, 0.0).mean, plain.mean)


@pytest.mark.parametrize("rate", [None, 0.3])
def test_dropout_of_the_models_config_is_at_work_in_training_only(tiny_model: Path, rate: float | None) -> None:
    model = load_model(ModelConfig(path=str(tiny_model), parts=ALL_FULL, dropout=rate)).model.language_model
    ids = torch.arange(8)[None]

    def twice() -> bool:
        torch.manual_seed(0)
        return torch.equal(model(input_ids=ids).last_hidden_state, model(input_ids=ids).last_hidden_state)

    assert model.train() and twice() == (rate is None)
    assert model.eval() and twice()

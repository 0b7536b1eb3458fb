"""`model.attention`: which implementation a model is loaded with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.config.schema import ModelConfig
from pipeline.errors import ModelError
from pipeline.models import attention
from pipeline.models.load import load_model


@pytest.mark.parametrize(("asked", "given"), [("auto", "sdpa"), ("sdpa", "sdpa"), ("eager", "eager")])
def test_all_parts_use_what_is_asked_for(random_model: Path, asked: str, given: str) -> None:
    model = load_model(ModelConfig(path=str(random_model), attention=asked))
    assert {each.config._attn_implementation for each in model.modules() if hasattr(each, "q_proj")} == {given}


def test_sdpa_and_eager_compute_the_same(random_model: Path) -> None:
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        sdpa, eager = (
            load_model(ModelConfig(path=str(random_model), attention=name)).eval()(input_ids=ids).logits
            for name in ("sdpa", "eager")
        )
    assert torch.allclose(sdpa, eager, atol=1e-5)


def test_flash_attn_is_refused_where_it_cannot_run(random_model: Path) -> None:
    with pytest.raises(ModelError, match="flash-attn cannot run here"):
        load_model(ModelConfig(path=str(random_model), attention="flash"))


@pytest.mark.parametrize(("dtype", "tried"), [("bf16", ["flash_attention_2", None]), ("fp32", [None])])
def test_auto_falls_back_where_a_part_has_no_flash_attention(
    dtype: str, tried: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)
    asked = []

    def load(attn_implementation: str | None) -> str:
        asked.append(attn_implementation)
        if attn_implementation:
            raise ValueError("this part does not support it")
        return "loaded"

    assert attention.with_attention(load, ModelConfig(path="x", dtype=dtype)) == "loaded"
    assert asked == tried

"""A tiny random model of its own for this room: no shards, no training."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.models.tiny import write_tiny_model


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "random"
    write_tiny_model(
        "qwen2_audio", [f"What is {n}? A dog or {n} cats." for n in range(50)], out, vocab_size=400, width=32
    )
    return out

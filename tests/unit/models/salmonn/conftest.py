"""Tiny SALMONN of its own for this room, with BEATs and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.models.tiny import write_tiny_model

TEXTS = [f"What is {n}? A dog or {n} cats. USER: <Speech></Speech>\nASSISTANT:" for n in range(50)]


@pytest.fixture(scope="session")
def salmonn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("salmonn") / "with-beats"
    write_tiny_model("salmonn", TEXTS, out, vocab_size=400, width=32)
    return out


@pytest.fixture(scope="session")
def salmonn_without_beats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("salmonn") / "without-beats"
    write_tiny_model("salmonn", TEXTS, out, vocab_size=400, width=32, beats=False)
    return out

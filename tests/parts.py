"""How the parts of a model learn in tests: by the recipe's own default (adapters), or all of them in full."""

from __future__ import annotations

from pipeline.config.schema import PartsConfig

ADAPTERS = PartsConfig()
ALL_FULL = PartsConfig(encoder="full", aligner="full", llm="full")
ALL_FULL_OVERRIDE = "model.parts={encoder: full, aligner: full, llm: full}"

"""`--resume`: three values, and nothing else."""

from __future__ import annotations

import pytest

from pipeline.cli.resume import AUTO, Resume
from pipeline.errors import ConfigError


def test_values_are_auto_never_or_a_step() -> None:
    assert Resume.parse("auto") == AUTO == Resume()
    assert Resume.parse("never") == Resume(never=True)
    assert Resume.parse("40") == Resume(step=40)
    for text in ("", "-3", "latest", "1.5"):
        with pytest.raises(ConfigError, match="nothing to resume from"):
            Resume.parse(text)

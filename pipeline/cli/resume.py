"""`--resume auto|never|STEP`: where a training goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from pipeline.errors import ConfigError

ResumeOption = Annotated[
    str,
    typer.Option(
        "--resume",
        metavar="auto|never|STEP",
        help="auto: from the newest checkpoint, if there is one; never: from the beginning; STEP: from that step's "
        "checkpoint. With never and STEP the checkpoints of later steps are deleted.",
    ),
]


@dataclass(frozen=True)
class Resume:
    """Where to go on.

    Attributes:
        never: not at all, but from the beginning.
        step: from the checkpoint of this step; None: from the newest one.
    """

    never: bool = False
    step: int | None = None

    @classmethod
    def parse(cls, text: str) -> Resume:
        """From the option's value; ConfigError for any other."""
        if text == "never":
            return cls(never=True)
        if text == "auto" or text.isdecimal():
            return cls(step=None if text == "auto" else int(text))
        raise ConfigError(
            "nothing to resume from", where={"option": "--resume"}, got=text, expected="auto, never or a step"
        )


AUTO = Resume()

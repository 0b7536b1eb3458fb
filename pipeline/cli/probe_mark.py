"""`<out>/probe/probe.json`: that a probe was taken, under which name its sketches are stored, and what it cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.atomic import write_atomic
from pipeline.config import Recipe
from pipeline.errors import AffinityError


class ProbeMark(BaseModel):
    """What is known of a probe without its sketches.

    Attributes:
        run, step, contributor: where the store has the sketches.
        source: digest of recipe, base model and data; spec: the kind of sketch.
        cost: of this contributor's probe, warm-up included; the report reads it.
    """

    model_config = ConfigDict(frozen=True)

    run: str
    step: int
    contributor: str
    source: str
    spec: dict[str, str | int]
    cost: dict[str, Any]


def mark_path(recipe: Recipe) -> Path:
    """`probe.json`; jobs that probe together in one folder, beside the first of them, have their own."""
    service = recipe.service
    is_first = service.contributor == service.contributors[0]
    return Path(recipe.out) / "probe" / ("probe.json" if is_first else f"probe-{service.contributor}.json")


def write_mark(recipe: Recipe, mark: ProbeMark) -> None:
    path = mark_path(recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (mark.model_dump_json(indent=1) + "\n").encode())


def read_mark(recipe: Recipe) -> ProbeMark | None:
    """None when there is no probe, or only one of an older version.

    Raises:
        AffinityError: the file is there but cannot be read.
    """
    path = mark_path(recipe)
    try:
        return ProbeMark.model_validate(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValidationError):
        return None
    except (OSError, ValueError) as error:
        raise AffinityError(
            f"the mark of a probe cannot be read: {error}", where={"file": path}, hint="delete it, and probe again"
        ) from None

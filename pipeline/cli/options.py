"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeOption = Annotated[str, typer.Option("-c", "--recipe", help="Recipe file, or the name of a shipped one.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides, such as train.seed=1 train.max_steps=200.")]
RanksOption = Annotated[int | None, typer.Option("--ranks", help="Start this many ranks with the deepspeed launcher.")]
# The launcher appends --local_rank to every process; the environment already says the same.
LocalRank = Annotated[int, typer.Option("--local_rank", hidden=True)]

"""`gst sync`: send what an experiment could not send while it ran: waiting sketches and its runs' event logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.affinity.shipping import EventShipper
from pipeline.cli.affinity_link import EVENTS, arm_record, connect, start_client
from pipeline.cli.options import Overrides
from pipeline.config import Recipe, load_recipe
from pipeline.errors import AffinityError, ConfigError, ConflictError, UnreachableError

PROGRESS_S = 20.0


def sync(
    out: Annotated[Path, typer.Argument(help="Experiment folder (the recipes' `out`).")], overrides: Overrides = None
) -> None:
    """Send waiting sketches and event logs to the store that the experiment's own recipes name."""
    recipes = saved_recipes(out, overrides or ())
    newest = max(recipes, key=lambda path: path.stat().st_mtime)
    send_waiting(recipes[newest])
    for path, recipe in recipes.items():
        if (path.parent / EVENTS).exists() and (path.parent / "run.json").exists():
            send_events(path.parent, recipe)


def saved_recipes(out: Path, overrides: list[str] | tuple[str, ...]) -> dict[Path, Recipe]:
    """The resolved recipes of an experiment's probe and runs, as if its folder had always been `out`.

    Raises:
        ConfigError: there are none.
    """
    files = [*sorted(out.glob("probe/recipe.yaml")), *sorted(out.glob("arms/*/recipe.yaml"))]
    if not files:
        raise ConfigError(
            "nothing was trained or probed here",
            where={"folder": out},
            expected="an experiment folder, such as runs/mini",
        )
    return {file: load_recipe(file, [*overrides, f"out={json.dumps(str(out))}"]) for file in files}


def send_waiting(recipe: Recipe) -> None:
    """Send the outbox, with a line of progress now and then.

    Raises:
        UnreachableError: the store cannot take it; nothing is lost.
        AffinityError: some of it was refused for good.
    """
    client = start_client(recipe)
    while not client.flush(PROGRESS_S):
        if client.trouble is not None:
            raise UnreachableError(
                f"the affinity store does not take what waits: {client.trouble}",
                where={"waiting": f"{len(client.outbox.waiting())} in {client.outbox.folder}"},
            )
        print(f"{len(client.outbox.waiting())} publications still wait")
    client.close(0)
    print(f"{client.outbox.folder}: {client.sent} publications sent, {client.superseded} were there in another form")
    if client.refused:
        raise AffinityError(f"{len(client.refused)} publications were refused", got=client.refused[-1])


def send_events(folder: Path, recipe: Recipe) -> None:
    """Bring the store's copy of one run's log up to date."""
    datasets = sorted(json.loads((folder / "run.json").read_bytes())["data_digests"])
    record = arm_record(recipe, datasets)
    try:
        sent = EventShipper(folder / EVENTS, record).ship(connect(recipe))
    except ConflictError as error:
        print(f"{folder}: its events stay here alone: {error}")
        return
    print(f"{folder}: {sent} events sent as {record.name}")

"""Runs on every rank: a probe that may go on in rounds; rank 0 writes its statistics.

Words: recipe, folder, part, parts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import engine as engine_room
from pipeline.affinity.payload import dump_stats
from pipeline.atomic import write_atomic
from pipeline.cli.errors import run_guarded
from pipeline.cli.gradients import take_gradients
from pipeline.cli.session import Data, Session
from pipeline.config import load_recipe


def main() -> None:
    file, folder, part, parts = sys.argv[-4:]
    recipe = load_recipe(file)
    session = Session(recipe, Data(recipe), Path(folder))
    stats = take_gradients(session, "test", part=int(part), parts=int(parts))
    if session.comm.rank == 0:
        write_atomic(Path(folder) / "stats.safetensors", dump_stats(stats))
    engine_room.shutdown(session.comm)


if __name__ == "__main__":
    run_guarded(main)

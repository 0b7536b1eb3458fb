"""Runs on every rank, see `test_crash.py`: joins the group and waits, for a collective or for nothing at all."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from pipeline import engine as engine_room
from pipeline.cli.errors import run_guarded


def work() -> None:
    """Rank 1 sleeps; rank 0 waits for it (`collective`), or sleeps as well, as inside a collective of NCCL."""
    folder, how = Path(sys.argv[-2]), sys.argv[-1]
    comm = engine_room.init_distributed()
    (folder / f"ready-{comm.rank}").touch()
    if comm.rank == 1 or how == "nothing":
        time.sleep(300)
    comm.all_reduce_sum(torch.ones(1))


if __name__ == "__main__":
    run_guarded(work)

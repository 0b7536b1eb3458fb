"""Checkpoints that are whole or absent.

    <run>/checkpoints/step-000100/
        zero/...                DeepSpeed's shards: trainable weights and optimizer (frozen weights stay in the base)
        state.json              loader, controller, clock ... : the same on every rank
        rank0.pt, rank1.pt ...  what differs between ranks: random states, open sketch window, averaged weights
        complete.json           written last: what the checkpoint is, and for which run

A folder without `complete.json` is debris of a crash and is ignored, then removed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from pipeline.atomic import sync_folder, write_atomic
from pipeline.dist import Comm
from pipeline.errors import CheckpointError

VERSION = 1
MARK = "complete.json"


class CheckpointStore:
    """Writes, finds, loads and prunes the checkpoints of one run.

    Args:
        identity: what must be equal for a checkpoint to belong to this run: recipe digest, base digest, data digests.
    """

    def __init__(self, run_dir: Path, comm: Comm, identity: dict[str, Any], keep: int) -> None:
        self.folder = run_dir / "checkpoints"
        self._comm = comm
        self._identity = identity
        self._keep = keep

    def save(
        self, engine: Any, step: int, shared: dict[str, Any], per_rank: dict[str, Any], best_step: int | None = None
    ) -> None:
        """Write the checkpoint of `step`; every rank calls it. Older ones are pruned once it is complete.

        Args:
            best_step: this step's checkpoint is kept beside the newest ones.
        """
        final = self.at(step)
        draft = self.folder / f".draft-{step:06d}"
        if self._comm.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for stale in (*self.folder.glob(".draft-*"), final):
                shutil.rmtree(stale, ignore_errors=True)
            draft.mkdir()
        self._comm.barrier()
        engine.save_checkpoint(str(draft), tag="zero", save_latest=False, exclude_frozen_parameters=True)
        torch.save(per_rank, draft / f"rank{self._comm.rank}.pt")
        self._comm.barrier()
        if self._comm.rank == 0:
            write_atomic(draft / "state.json", json.dumps(shared).encode())
            mark = {
                "version": VERSION,
                "step": step,
                "world_size": self._comm.world_size,
                "identity": self._identity,
            }
            write_atomic(draft / MARK, json.dumps(mark, indent=1).encode())
            _sync_tree(draft)
            draft.replace(final)
            sync_folder(self.folder)
            self._prune(best_step)
        self._comm.barrier()

    def at(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def latest(self) -> Path | None:
        """The newest complete checkpoint, or None. Rank 0 looks; all ranks get its answer."""
        found = None
        if self._comm.rank == 0 and self.folder.is_dir():
            complete = sorted(path.parent for path in self.folder.glob(f"step-*/{MARK}"))
            found = complete[-1] if complete else None
        return self._comm.broadcast_object(found)

    def load(self, engine: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Restore the engine from `folder`; returns (shared state, this rank's state).

        Raises:
            CheckpointError: another run's, another version's, or written by another number of ranks.
        """
        mark = json.loads((folder / MARK).read_text())
        self._check(mark, folder)
        path, _ = engine.load_checkpoint(str(folder), tag="zero", load_module_strict=False)
        if path is None:
            raise CheckpointError("DeepSpeed finds no shards in this checkpoint", where={"folder": folder})
        shared = json.loads((folder / "state.json").read_text())
        return shared, self.load_per_rank(folder)

    def load_per_rank(self, folder: Path) -> dict[str, Any]:
        """What this rank put into the checkpoint `folder`; touches no engine."""
        state: dict[str, Any] = torch.load(folder / f"rank{self._comm.rank}.pt", weights_only=True)
        return state

    def _check(self, mark: dict[str, Any], folder: Path) -> None:
        if mark.get("version") != VERSION:
            raise CheckpointError(
                "a checkpoint of another format version",
                where={"folder": folder},
                got=mark.get("version"),
                expected=VERSION,
                hint="start a new run, or use the version of audio-gst that wrote it",
            )
        for key, mine in self._identity.items():
            theirs = mark["identity"].get(key)
            if theirs != mine:
                raise CheckpointError(
                    f"this run folder holds a checkpoint of another run: its {key} differs",
                    where={"folder": folder},
                    got=theirs,
                    expected=mine,
                    hint="give the changed run another arm name, seed or `out`, or delete the run folder",
                )
        if mark["world_size"] != self._comm.world_size:
            raise CheckpointError(
                "the checkpoint was written by another number of ranks",
                where={"folder": folder},
                got=f"{self._comm.world_size} ranks",
                expected=f"{mark['world_size']} ranks",
                hint="resume with that number of ranks; changing it is not implemented",
            )

    def _prune(self, best_step: int | None) -> None:
        complete = sorted(path.parent for path in self.folder.glob(f"step-*/{MARK}"))
        for old in complete[: -self._keep]:
            if best_step is not None and old == self.at(best_step):
                continue
            (old / MARK).unlink()  # first, so that a kill in mid-removal leaves debris, not half a checkpoint
            shutil.rmtree(old)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    sync_folder(folder)

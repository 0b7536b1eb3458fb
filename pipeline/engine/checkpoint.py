"""Checkpoints that are whole or absent.

    <run>/checkpoints/step-000100/
        zero/...                DeepSpeed's shards: trainable weights and optimizer (frozen weights stay in the base)
        state.json              loader, controller, clock ... : the same on every rank
        rank0.pt, rank1.pt ...  what differs between ranks: random states, open sketch window, averaged weights
        complete.json           written last: what the checkpoint is, and for which run

A folder without `complete.json` is debris of a crash and is ignored, then removed. Another number of ranks than wrote a
checkpoint can read it: `pipeline.engine.redeal` cuts the shards anew, and `Saved.mine` what the ranks kept beside them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch

from pipeline.atomic import sync_folder, sync_tree, write_atomic
from pipeline.dist import Comm
from pipeline.engine.frozen import frozen_digest, trained_digest
from pipeline.engine.redeal import Redeal, layout_of, open_saved, write_redealt
from pipeline.errors import CheckpointError

VERSION = 2
MARK = "complete.json"
ASIDE = ".aside-"  # in front of a checkpoint's name while another of the same step takes its place
ENGINE = "zero"  # the folder of DeepSpeed's own files

T = TypeVar("T")


@dataclass(frozen=True)
class Saved:
    """A checkpoint without the engine's own state.

    Attributes:
        mark: what the checkpoint says of itself.
        shared: the same on every rank, for every number of ranks.
        states: what this rank put into it; that of all ranks, when their number was another one.
        redeal: None for the same number of ranks.
    """

    mark: dict[str, Any]
    shared: dict[str, Any]
    states: list[dict[str, Any]]
    redeal: Redeal | None

    @property
    def world_size(self) -> int:
        return int(self.mark["world_size"])

    def mine(self, key: str, redealt: Callable[[list[Any], Redeal], T]) -> T:
        """This rank's part called `key`; `redealt` makes it from the parts of another number of ranks."""
        parts = [state[key] for state in self.states]
        if self.redeal is None:
            mine: T = parts[0]
            return mine
        return redealt(parts, self.redeal)


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
        self._digests: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()

    def save(
        self, engine: Any, step: int, shared: dict[str, Any], per_rank: dict[str, Any], best_step: int | None = None
    ) -> None:
        """Write the checkpoint of `step`; every rank calls it. Older ones are pruned once it is complete.

        Args:
            best_step: this step's checkpoint is kept beside the newest ones.
        """
        weights = self._weights(engine)
        final = self.at(step)
        draft = self.folder / f".draft-{step:06d}"
        if self._comm.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._put_back()
            for stale in (*self.folder.glob(".draft-*"), *self.folder.glob(".redealt-*"), *self._debris()):
                shutil.rmtree(stale, ignore_errors=True)
            draft.mkdir()
        self._comm.barrier()
        engine.save_checkpoint(str(draft), tag=ENGINE, save_latest=False, exclude_frozen_parameters=True)
        torch.save(per_rank, draft / f"rank{self._comm.rank}.pt")
        self._comm.barrier()
        if self._comm.rank == 0:
            write_atomic(draft / "state.json", json.dumps(shared).encode())
            mark = {
                "version": VERSION,
                "step": step,
                "world_size": self._comm.world_size,
                "zero_stage": engine.zero_optimization_stage(),
                "weights": weights,
                "identity": self._identity,
            }
            write_atomic(draft / MARK, json.dumps(mark, indent=1).encode())
            sync_tree(draft)
            aside = self.folder / f"{ASIDE}{final.name}"
            if final.exists():  # of the same step: before its evaluation, or from before a resume
                final.replace(aside)
            draft.replace(final)
            shutil.rmtree(aside, ignore_errors=True)
            sync_folder(self.folder)
            self._prune(best_step)
        self._comm.barrier()

    def at(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def find(self, step: int) -> Path:
        """The complete checkpoint of `step`; CheckpointError on every rank when there is none."""
        there = self._comm.broadcast_object(self._complete() if self._comm.rank == 0 else None)
        if self.at(step) not in there:
            raise CheckpointError(
                f"there is no complete checkpoint of step {step}",
                where={"folder": self.folder},
                expected=", ".join(folder.name for folder in there) or "none is there",
                hint="--resume auto takes the newest one",
            )
        return self.at(step)

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, for a run that goes back there (-1: all); every rank calls it."""
        if self._comm.rank == 0:
            for folder in self._complete():
                if int(folder.name.removeprefix("step-")) > step:
                    self._remove(folder)
        self._comm.barrier()

    def latest(self) -> Path | None:
        """The newest complete checkpoint, or None. Rank 0 looks; all ranks get its answer."""
        complete = self._complete() if self._comm.rank == 0 else []
        return self._comm.broadcast_object(complete[-1] if complete else None)

    def load(self, engine: Any, folder: Path) -> Saved:
        """Restore the engine from `folder`, whatever the number of ranks that wrote it; every rank calls it.

        Returns:
            The rest of the state, for its owners to take up.

        Raises:
            CheckpointError: another run's, another version's, of other frozen or trained weights, or of a form that
                only the number of ranks that wrote it can read.
        """
        saved = self.read(engine, folder)
        self._require_same_weights(engine, saved.mark, folder)
        if saved.redeal is None or engine.zero_optimization_stage() == 0:
            self._load_engine(engine, folder)
            return saved
        redealt = self.folder / f".redealt-{folder.name}"
        if self._comm.rank == 0:
            shutil.rmtree(redealt, ignore_errors=True)
            (redealt / ENGINE).mkdir(parents=True)
        self._comm.barrier()
        ranks = open_saved(folder / ENGINE, saved.world_size)
        write_redealt(ranks, engine, redealt / ENGINE, self._comm)
        self._comm.barrier()
        self._load_engine(engine, redealt)
        self._comm.barrier()
        if self._comm.rank == 0:
            shutil.rmtree(redealt)
        return saved

    def read(self, engine: Any, folder: Path) -> Saved:
        """What is in `folder` beside the engine's own state; changes nothing. Every rank calls it.

        Raises:
            CheckpointError: as `load`.
        """
        mark = json.loads((folder / MARK).read_text())
        self._check(mark, engine, folder)
        world_size = int(mark["world_size"])
        shared = json.loads((folder / "state.json").read_text())
        if world_size == self._comm.world_size:
            return Saved(mark, shared, [_rank_state(folder, self._comm.rank)], None)
        states = [_rank_state(folder, rank, mapped=True) for rank in range(world_size)]  # pieces of each are wanted
        if engine.zero_optimization_stage() == 0:  # every rank has everything
            return Saved(mark, shared, states, Redeal([], [], []))
        mine, lengths, _ = layout_of(engine, self._comm)
        return Saved(mark, shared, states, Redeal(open_saved(folder / ENGINE, world_size).slices, mine, lengths))

    def _load_engine(self, engine: Any, folder: Path) -> None:
        path, _ = engine.load_checkpoint(str(folder), tag=ENGINE, load_module_strict=False)
        if path is None:
            raise CheckpointError("DeepSpeed finds no shards in this checkpoint", where={"folder": folder})

    def _check(self, mark: dict[str, Any], engine: Any, folder: Path) -> None:
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
        if mark["zero_stage"] != engine.zero_optimization_stage():
            raise CheckpointError(
                "the checkpoint was written under another ZeRO stage",
                where={"folder": folder},
                got=f"stage {engine.zero_optimization_stage()}",
                expected=f"stage {mark['zero_stage']}",
                hint="resume with the DeepSpeed JSON of the checkpoint (engine.deepspeed), or start a new run",
            )

    def _require_same_weights(self, engine: Any, mark: dict[str, Any], folder: Path) -> None:
        """The checkpoint has the trained weights alone; the frozen ones must be those it was trained with."""
        for key, mine in self._weights(engine).items():
            if mark["weights"][key] != mine:
                raise CheckpointError(
                    f"the {key} weights of the model are not those of the checkpoint",
                    where={"folder": folder},
                    got=mine,
                    expected=mark["weights"][key],
                    hint="the base model or a library that builds the model has changed: bring back the one that "
                    "the run began with, or start a new run",
                )

    def _weights(self, engine: Any) -> dict[str, str]:
        """Digests of the frozen weights and of the trained ones' names and shapes; every rank calls it."""
        if engine not in self._digests:  # frozen weights do not change while an engine lives
            self._digests[engine] = {"frozen": frozen_digest(engine, self._comm), "trained": trained_digest(engine)}
        return self._digests[engine]

    def _prune(self, best_step: int | None) -> None:
        for old in self._complete()[: -self._keep]:
            if best_step is None or old != self.at(best_step):
                self._remove(old)

    def _remove(self, folder: Path) -> None:
        (folder / MARK).unlink()  # first, so that a kill in mid-removal leaves debris, not half a checkpoint
        shutil.rmtree(folder)

    def _complete(self) -> list[Path]:
        self._put_back()
        return sorted(path.parent for path in self.folder.glob(f"step-*/{MARK}"))

    def _put_back(self) -> None:
        """A kill between the two renames of a step that is saved again leaves the older one under another name."""
        for aside in self.folder.glob(f"{ASIDE}step-*"):
            final = self.folder / aside.name.removeprefix(ASIDE)
            if (final / MARK).exists():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                shutil.rmtree(final, ignore_errors=True)
                aside.replace(final)

    def _debris(self) -> list[Path]:
        return [folder for folder in self.folder.glob("step-*") if not (folder / MARK).exists()]


def _rank_state(folder: Path, rank: int, *, mapped: bool = False) -> dict[str, Any]:
    file = folder / f"rank{rank}.pt"
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    return state

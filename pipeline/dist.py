"""Rank, world size and a handful of collectives: the one seam between the project and torch.distributed."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # commands that never compute ask this module for their rank, and torch takes seconds to import
    import torch


class Comm(Protocol):
    """The collectives the project uses. All of them must be called by every rank, in the same order."""

    rank: int
    world_size: int

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place; returns `tensor`."""
        ...

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's `value` on every rank."""
        ...

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's `value`, in rank order, on every rank."""
        ...

    def barrier(self) -> None: ...


class SingleProcess:
    """A world of one: the fake for tests and for commands that run without a launcher."""

    rank = 0
    world_size = 1

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def broadcast_object(self, value: Any) -> Any:
        return value

    def gather_objects(self, value: Any) -> list[Any]:
        return [value]

    def barrier(self) -> None:
        return None


class TorchComm:
    """torch.distributed's default process group, which the engine has initialised."""

    def __init__(self) -> None:
        import torch
        import torch.distributed

        self._dist = torch.distributed
        self.rank = self._dist.get_rank()
        self.world_size = self._dist.get_world_size()
        # NCCL reduces what lies on its GPU only, while most of our sums are a few numbers on the CPU.
        self._gpu = torch.device("cuda") if self._dist.get_backend() == "nccl" else None

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._gpu is None or tensor.is_cuda:
            self._dist.all_reduce(tensor)
            return tensor
        moved = tensor.to(self._gpu)
        self._dist.all_reduce(moved)
        return tensor.copy_(moved)

    def broadcast_object(self, value: Any) -> Any:
        box = [value]
        self._dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather_objects(self, value: Any) -> list[Any]:
        box: list[Any] = [None] * self.world_size
        self._dist.all_gather_object(box, value)
        return box

    def barrier(self) -> None:
        self._dist.barrier()


def launched_rank() -> int:
    """This process' rank as the launcher says; 0 without a launcher. Usable before any process group exists."""
    return int(os.environ.get("RANK", "0"))


def launched_local_rank() -> int:
    """The same among the processes of this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def launched_world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def free_port() -> int:
    """A TCP port on this machine that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""What one optimizer step adds up over its micro-batches and over the ranks. `D` are datasets."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pipeline.dist import Comm
from pipeline.models.loss import StepLoss


class StepSums:
    """Collects without waiting for a GPU; `reduced` waits once, for the whole step."""

    def __init__(self, datasets: Sequence[str], device: torch.device) -> None:
        self._datasets = datasets
        self._is_gpu = device.type == "cuda"
        self._losses: list[StepLoss] = []
        self._spans: list[tuple[Any, Any]] = []

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around forward and backward of a micro-batch; on a GPU the time of its work there."""
        began = self._now()
        yield
        self._spans.append((began, self._now()))

    def add(self, loss: StepLoss) -> None:
        """The loss of the micro-batch that was just timed."""
        self._losses.append(StepLoss(loss.mean.detach(), loss.sums, loss.shares, loss.tokens))

    def reduced(self, comm: Comm, *more: torch.Tensor) -> list[torch.Tensor]:
        """Sums over all ranks, in one all-reduce.

        Args:
            more: float64, to be summed as well.

        Returns:
            [D, 4]: loss, answer tokens, examples and seconds of each dataset; then each of `more`.
        """
        sums = torch.zeros(len(self._datasets), 4, dtype=torch.float64)
        for loss, span in zip(self._losses, self._spans, strict=True):
            seconds = self._seconds(*span) / sum(share.examples for share in loss.shares)
            for share, value in zip(loss.shares, loss.sums.tolist(), strict=True):
                row = [value, share.tokens, share.examples, share.examples * seconds]
                sums[self._datasets.index(share.dataset)] += torch.tensor(row)
        parts = [sums, *more]
        flat = comm.all_reduce_sum(torch.cat([part.flatten() for part in parts]))
        pieces = flat.split([part.numel() for part in parts])
        return [piece.view_as(part) for piece, part in zip(pieces, parts, strict=True)]

    def _now(self) -> Any:
        if not self._is_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, began: Any, ended: Any) -> float:
        if not self._is_gpu:
            return float(ended - began)
        ended.synchronize()
        return float(began.elapsed_time(ended)) / 1000

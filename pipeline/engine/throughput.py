"""How fast training goes and what it takes: rates, time waiting for data, memory, and use of the GPU.

Each rank fills one row of numbers a step. The rows travel in the all-reduce that sums the losses anyway: every rank
writes its own row of a table of zeros, so the sum over ranks is the table of all rows. `W` are ranks, `C` columns.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass, fields
from typing import Any

import psutil
import torch

from pipeline.dist import Comm
from pipeline.engine.flops import FlopCount, peak_flops
from pipeline.runlog.metrics import EVERY_STEPS
from pipeline.types import MicroBatch

GIB = 2**30
UTILISATION_EVERY_S = 1.0  # the driver's own figure is a mean over about as long


@dataclass(frozen=True)
class RankRow:
    """What one rank says of one step.

    Attributes:
        wait_s: until the step's micro-batches were there.
        tokens: the language model's positions that are not padding, audio included.
        flops: see `pipeline.engine.flops`; 0 where there is no GPU.
        skipped: examples that could not be read, since this process began.
        used_gib, reserved_gib, peak_gib: on a GPU memory in tensors, held by torch, and the most in tensors; else
            resident memory (twice) and the most of it.
        utilisation: share of time in which the GPU had work, by its driver; -1: not known.
    """

    wait_s: float
    tokens: float
    audio_s: float
    flops: float
    skipped: float
    used_gib: float
    reserved_gib: float
    peak_gib: float
    utilisation: float


COLUMNS = tuple(field.name for field in fields(RankRow))


@dataclass(frozen=True)
class StepRates:
    """A step's sums over ranks, and its seconds; `wait_s` is that of the rank that waited longest."""

    seconds: float
    wait_s: float
    samples: float
    tokens: float
    audio_s: float
    flops: float


class Meter:
    """Measures this rank's steps and says what all ranks did; rates are means over the last EVERY_STEPS steps."""

    def __init__(self, model: torch.nn.Module, device: torch.device, dtype: str, comm: Comm) -> None:
        self._device, self._comm = device, comm
        is_gpu = device.type == "cuda"
        self._peak_flops = peak_flops(torch.cuda.get_device_name(device), dtype) if is_gpu else None
        self._flops = FlopCount(model) if self._peak_flops else None
        self._recent: deque[StepRates] = deque(maxlen=EVERY_STEPS)
        self._began_s = self._ready_s = time.perf_counter()
        self._utilisation, self._asked_s = -1.0, -UTILISATION_EVERY_S

    def begin(self) -> None:
        """A step begins: data is asked for."""
        self._began_s = time.perf_counter()

    def data_ready(self) -> None:
        self._ready_s = time.perf_counter()

    def forward(self) -> AbstractContextManager[None]:
        """Around each forward pass."""
        return self._flops.counting() if self._flops else nullcontext()

    def rows(self, batches: Sequence[MicroBatch], skipped: int) -> torch.Tensor:
        """[W, C] float64 with this rank's row; to be summed over ranks."""
        used, reserved, peak = self._memory()
        row = RankRow(
            wait_s=self._ready_s - self._began_s,
            tokens=sum(map(_tokens, batches)),
            audio_s=sum(batch.audio_s for batch in batches),
            flops=self._flops.take() if self._flops else 0.0,
            skipped=skipped,
            used_gib=used / GIB,
            reserved_gib=reserved / GIB,
            peak_gib=peak / GIB,
            utilisation=self._ask_utilisation(),
        )
        rows = torch.zeros(self._comm.world_size, len(COLUMNS), dtype=torch.float64)
        rows[self._comm.rank] = torch.tensor(astuple(row), dtype=torch.float64)
        return rows

    def end(self, rows: torch.Tensor, samples: float) -> dict[str, Any]:
        """The step's numbers for the log.

        Args:
            rows: [W, C] of all ranks.
            samples: of the step, over all ranks.
        """
        every = [RankRow(*row) for row in rows.tolist()]
        self._recent.append(
            StepRates(
                seconds=time.perf_counter() - self._began_s,
                wait_s=max(row.wait_s for row in every),
                samples=samples,
                tokens=sum(row.tokens for row in every),
                audio_s=sum(row.audio_s for row in every),
                flops=sum(row.flops for row in every),
            )
        )
        numbers = {
            "throughput": rates(self._recent, self._peak_flops, len(every)),
            "memory": memory(every, is_gpu=self._device.type == "cuda"),
            "skipped": int(sum(row.skipped for row in every)),
        }
        known = [row.utilisation for row in every if row.utilisation >= 0]
        return numbers | ({"gpu_utilisation": sum(known) / len(known)} if known else {})

    def _memory(self) -> tuple[float, float, float]:
        if self._device.type == "cuda":
            cuda = torch.cuda
            return (
                cuda.memory_allocated(self._device),
                cuda.memory_reserved(self._device),
                cuda.max_memory_allocated(self._device),
            )
        resident = psutil.Process().memory_info().rss
        unit = 1 if sys.platform == "darwin" else 1024
        return resident, resident, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def _ask_utilisation(self) -> float:
        """The driver is asked once in a while only; -1 where there is no GPU or no package to ask with."""
        if self._device.type != "cuda":
            return -1.0
        now_s = time.perf_counter()
        if now_s - self._asked_s >= UTILISATION_EVERY_S:
            self._asked_s = now_s
            try:
                self._utilisation = torch.cuda.utilization(self._device) / 100
            except (ModuleNotFoundError, RuntimeError):
                self._utilisation, self._asked_s = -1.0, float("inf")
        return self._utilisation


def rates(steps: Sequence[StepRates], peak: float | None, world_size: int) -> dict[str, float]:
    """Means over `steps`. `mfu` is there where the GPU's peak operations per second are known."""
    seconds = sum(step.seconds for step in steps)
    found = {
        "samples_per_s": sum(step.samples for step in steps) / seconds,
        "tokens_per_s": sum(step.tokens for step in steps) / seconds,
        "audio_s_per_s": sum(step.audio_s for step in steps) / seconds,
        "data_wait_share": sum(step.wait_s for step in steps) / seconds,
    }
    if peak:
        found["mfu"] = sum(step.flops for step in steps) / (seconds * world_size * peak)
    return found


def memory(rows: Sequence[RankRow], *, is_gpu: bool) -> dict[str, float]:
    """Of the rank that has most of each, in GiB."""
    used, reserved, peak = (
        max(getattr(row, name) for row in rows) for name in ("used_gib", "reserved_gib", "peak_gib")
    )
    if is_gpu:
        return {"gpu_allocated_gib": used, "gpu_reserved_gib": reserved, "gpu_peak_gib": peak}
    return {"rss_gib": used, "rss_peak_gib": peak}


def _tokens(batch: MicroBatch) -> int:
    mask = batch.inputs.get("attention_mask")
    return int(mask.sum()) if mask is not None else int(batch.inputs["input_ids"].numel())

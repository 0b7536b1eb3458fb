"""GPUs as torch and the driver see them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import torch

from pipeline.cli.checks.row import Row
from pipeline.config.memory import GIB

COMMAND_TIMEOUT_S = 5


def gpu_count() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def has_gpu() -> bool:
    return gpu_count() > 0


def device_rows() -> Iterator[Row]:
    """Each GPU, the driver, CUDA and NCCL of torch, and which GPUs reach each other's memory."""
    driver = _driver()
    if not has_gpu():
        yield _no_gpu_row(driver)
        return
    for number in range(gpu_count()):
        found = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        text = f"{found.name}, {total / GIB:.1f} GiB ({free / GIB:.1f} free), compute {found.major}.{found.minor}"
        is_shared = free < 0.9 * total
        yield Row(
            f"gpu {number}", "warn" if is_shared else "ok", text, "another process holds memory: nvidia-smi" * is_shared
        )
    yield Row("gpu driver", "ok" if driver else "warn", driver or "nvidia-smi does not answer")
    yield Row("cuda of torch", "ok", str(torch.version.cuda))
    yield _nccl_row()
    yield Row("bf16", "ok" if torch.cuda.is_bf16_supported() else "warn", str(torch.cuda.is_bf16_supported()),
              "" if torch.cuda.is_bf16_supported() else "set model.dtype=fp16 or fp32")  # fmt: skip
    if gpu_count() > 1:
        yield _peer_row()


def _no_gpu_row(driver: str) -> Row:
    if driver:
        return Row(
            "gpus", "bad", f"none for torch {torch.__version__}, though the driver {driver} is there",
            "install a torch built for CUDA, or look at CUDA_VISIBLE_DEVICES",
        )  # fmt: skip
    return Row("gpus", "ok", "none", "runs on CPU with gloo and ds_configs/cpu_zero3.json")


def _driver() -> str:
    """Version of the NVIDIA driver; empty without one."""
    path = shutil.which("nvidia-smi")
    if path is None:
        return ""
    query = [path, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.split("\n")[0].strip() if done.returncode == 0 else ""


def _nccl_row() -> Row:
    if not torch.distributed.is_nccl_available():
        return Row("nccl", "bad", "torch was built without it", "install a torch wheel for CUDA")
    return Row("nccl", "ok", ".".join(str(part) for part in torch.cuda.nccl.version()))


def _peer_row() -> Row:
    count = gpu_count()
    apart = [
        f"{a}-{b}" for a in range(count) for b in range(a + 1, count) if not torch.cuda.can_device_access_peer(a, b)
    ]
    if apart:
        return Row("gpu peers", "warn", f"no direct access: {', '.join(apart)}", "weights go through host memory there")
    return Row("gpu peers", "ok", f"all {count} reach each other's memory")

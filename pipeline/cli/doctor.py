"""`gst doctor`: what is installed, what is not, and what that means."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil

from rich.console import Console
from rich.table import Table

PACKAGES = ("torch", "deepspeed", "transformers", "peft", "webdataset", "mlflow", "numba", "soundfile", "soxr")
OPTIONAL = {
    "flash_attn": "faster attention on CUDA; SDPA is used without it",
    "liger_kernel": "fused cross-entropy on CUDA",
    "ray": "data preparation on a cluster",
}


def doctor() -> None:
    """Print versions and devices."""
    import torch

    table = Table(title="gst doctor", title_justify="left")
    for column in ("what", "found", "note"):
        table.add_column(column)
    table.add_row("python", platform.python_version(), "")
    table.add_row("cpu cores", str(len(os.sched_getaffinity(0))), "")
    for package in PACKAGES:
        table.add_row(package, _version(package), "")
    for module, note in OPTIONAL.items():
        found = "yes" if importlib.util.find_spec(module) else "no"
        table.add_row(f"{module} (optional)", found, note)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    table.add_row("gpus", str(gpus), "" if gpus else "runs on CPU with gloo and ds_configs/cpu_zero3.json")
    table.add_row("deepspeed launcher", shutil.which("deepspeed") or "not on PATH", "")
    Console().print(table)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "MISSING: pip install -e ."

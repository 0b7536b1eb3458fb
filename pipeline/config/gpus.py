"""Memory of GPUs by name, as torch reports it: what the data sheet says less what the driver keeps."""

from __future__ import annotations

from pipeline.errors import ConfigError, did_you_mean

GPU_GIB = {
    "v100-16": 15.8,
    "v100-32": 31.7,
    "a10-24": 22.0,
    "rtx4090-24": 23.6,
    "l40s-48": 44.4,
    "a6000-48": 47.4,
    "a100-40": 39.4,
    "a100-80": 79.2,
    "h100-80": 79.1,
    "h100-94": 93.1,
    "h200-141": 139.7,
    "b200-192": 178.3,
}


def gpu_gib(name: str) -> float:
    """GiB of the GPU called `name`; ConfigError for one that is not known."""
    if name.lower() in GPU_GIB:
        return GPU_GIB[name.lower()]
    raise ConfigError(
        "unknown GPU",
        where={"option": "--gpu"},
        got=name,
        expected=", ".join(GPU_GIB),
        hint=did_you_mean(name.lower(), GPU_GIB, "give --gpu-memory GIB instead"),
    )

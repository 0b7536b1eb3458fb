"""DeepSpeed's compiled extensions: what of them is there. Nothing is compiled to find out."""

from __future__ import annotations

import os

import torch


def op_states() -> dict[str, str]:
    """Name of an extension -> `installed`, `compatible` (compiled when first used) or `incompatible`."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.git_version_info import installed_ops
    from deepspeed.ops.op_builder.all_ops import ALL_OPS
    from deepspeed.ops.op_builder.builder import probe_is_compatible

    states = {}
    for name, builder in ALL_OPS.items():
        if name == "deepspeed_not_implemented":
            continue
        usable = "compatible" if probe_is_compatible(builder, False) else "incompatible"
        states[name] = "installed" if installed_ops.get(name) else usable
    return states

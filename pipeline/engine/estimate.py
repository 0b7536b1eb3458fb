"""DeepSpeed's own estimate of model states, to stand beside ours."""

from __future__ import annotations

import os

import torch


def deepspeed_estimate(
    total: int,
    largest_module: int,
    gpus_per_node: int,
    nodes: int,
    stage: int,
    offload_optimizer: bool,
    offload_param: bool,
) -> tuple[int, int] | None:
    """(host bytes of a node, bytes of a GPU) as `estimate_zero{2,3}_model_states_mem_needs` have it.

    They count 18 bytes for every parameter, as if all of them learned in 16 bits with Adam, and neither activations nor
    buckets; their host figure has a factor of 1.5 for buffers. None: there is no estimate below stage 2.
    """
    if stage < 2:
        return None
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if stage == 2:
        from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

        host, gpu = estimate_zero2_model_states_mem_needs(total, gpus_per_node, nodes, cpu_offload=offload_optimizer)
        return int(host), int(gpu)
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    host, gpu, _ = estimate_zero3_model_states_mem_needs(
        total,
        largest_module,
        gpus_per_node,
        nodes,
        cpu_offload=offload_optimizer,
        cpu_offload_params=offload_param,
        zero_init=False,  # every rank loads the whole base
    )
    return int(host), int(gpu)

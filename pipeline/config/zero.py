"""The `zero_optimization` section of a DeepSpeed JSON: which keys it has, and what counts when it leaves some out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Of DeepSpeed 0.19's DeepSpeedZeroConfig; those of ZeRO-3 are written with `stage3_` in front, or without.
_STAGE3_KEYS = (
    "prefetch_bucket_size",
    "param_persistence_threshold",
    "model_persistence_threshold",
    "max_live_parameters",
    "max_reuse_distance",
    "gather_16bit_weights_on_model_save",
    "module_granularity_threshold",
    "use_all_reduce_for_fetch_params",
    "allgather_sequential",
)
ZERO_KEYS = frozenset(
    {
        *_STAGE3_KEYS,
        *(f"stage3_{key}" for key in _STAGE3_KEYS),
        "stage",
        "contiguous_gradients",
        "reduce_scatter",
        "reduce_bucket_size",
        "use_multi_rank_bucket_allreduce",
        "allgather_partitions",
        "allgather_bucket_size",
        "overlap_comm",
        "compute_grad_norm",
        "load_from_fp32_weights",
        "elastic_checkpoint",
        "offload_param",
        "offload_optimizer",
        "zenflow",
        "sub_group_size",
        "cpu_offload_param",
        "cpu_offload_use_pin_memory",
        "cpu_offload",
        "stage3_gather_fp16_weights_on_model_save",
        "ignore_unused_parameters",
        "legacy_stage1",
        "round_robin_gradients",
        "parameter_alignment",
        "zero_hpz_partition_size",
        "zero_quantized_weights",
        "zero_quantized_nontrainable_weights",
        "zero_quantized_gradients",
        "memory_efficient_linear",
        "pipeline_loading_checkpoint",
        "override_module_apply",
        "log_trace_cache_warnings",
        "enable_sanity_checks",
        "save_muon_momentum_buffer_in_memory",
        "leaf_module",
    }
)


@dataclass(frozen=True)
class ZeroSettings:
    """What of the section decides memory, with DeepSpeed's defaults; sizes are numbers of elements.

    Attributes:
        offload_optimizer, offload_param: `none`, `cpu` or `nvme`.
    """

    stage: int = 0
    reduce_bucket_size: int = 500_000_000
    overlap_comm: bool = True
    contiguous_gradients: bool = True
    prefetch_bucket_size: int = 50_000_000
    param_persistence_threshold: int = 100_000
    model_persistence_threshold: int = sys.maxsize
    max_live_parameters: int = 1_000_000_000
    sub_group_size: int = 1_000_000_000
    zero_hpz_partition_size: int = 1
    offload_optimizer: str = "none"
    offload_param: str = "none"

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> ZeroSettings:
        """From a whole DeepSpeed configuration."""
        zero = tree.get("zero_optimization", {})
        stage = int(zero.get("stage", 0))
        values: dict[str, Any] = {"stage": stage, "overlap_comm": stage == 3}
        for name in cls.__dataclass_fields__:
            for key in (name, f"stage3_{name}"):
                value = zero.get(key)
                if isinstance(value, dict):
                    values[name] = str(value.get("device", "none"))
                elif value is not None:
                    values[name] = value if isinstance(value, bool) else int(value)
        return cls(**values)

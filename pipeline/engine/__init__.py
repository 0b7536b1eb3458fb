"""DeepSpeed ZeRO-3: build, loop, probe, checkpoint, export. The only importer of deepspeed."""

from pipeline.engine.checkpoint import CheckpointStore
from pipeline.engine.counts import trainable_count
from pipeline.engine.export import export_engine, which_judged
from pipeline.engine.partitions import gradient_partitions, loss_scale
from pipeline.engine.probe import probe_gradients
from pipeline.engine.restart import FreshStarts
from pipeline.engine.saved_weights import SavedWeights, find_checkpoint
from pipeline.engine.second_moments import require_whole_denominators, whole_adam_denominators
from pipeline.engine.setup import build_engine, device_of, init_distributed, shutdown
from pipeline.engine.speed import pinned
from pipeline.engine.trainer import Trainer

__all__ = [
    "CheckpointStore",
    "FreshStarts",
    "SavedWeights",
    "Trainer",
    "build_engine",
    "device_of",
    "export_engine",
    "find_checkpoint",
    "gradient_partitions",
    "init_distributed",
    "loss_scale",
    "pinned",
    "probe_gradients",
    "require_whole_denominators",
    "shutdown",
    "trainable_count",
    "which_judged",
    "whole_adam_denominators",
]

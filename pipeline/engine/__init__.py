"""DeepSpeed ZeRO-3: build, loop, probe, checkpoint, export. The only importer of deepspeed."""

from pipeline.engine.checkpoint import CheckpointStore
from pipeline.engine.export import save_pretrained, trainable_count
from pipeline.engine.partitions import gradient_partitions, loss_scale
from pipeline.engine.probe import probe_gradients
from pipeline.engine.restart import FreshStarts
from pipeline.engine.second_moments import require_whole_denominators, whole_adam_denominators
from pipeline.engine.setup import build_engine, device_of, init_distributed, shutdown
from pipeline.engine.trainer import Trainer

__all__ = [
    "CheckpointStore",
    "FreshStarts",
    "Trainer",
    "build_engine",
    "device_of",
    "gradient_partitions",
    "init_distributed",
    "loss_scale",
    "probe_gradients",
    "require_whole_denominators",
    "save_pretrained",
    "shutdown",
    "trainable_count",
    "whole_adam_denominators",
]

"""What only a GPU shows of `train.speed`: liger's loss, flash-attn, pinned copies, and the meter's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.schema import ModelConfig
from pipeline.config.training import SpeedConfig
from pipeline.data.batches import make_micro_batch
from pipeline.dist import SingleProcess
from pipeline.engine.speed import pinned
from pipeline.engine.step_sums import StepSums
from pipeline.engine.throughput import Meter
from pipeline.models.encode import AnswerEncoder
from pipeline.models.load import load_model, load_processor, trainable_parameters
from pipeline.models.teacher import TeacherForcing
from pipeline.models.tiny import write_tiny_model
from pipeline.types import Example, MicroBatch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
GPU = torch.device("cuda:0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "random"
    write_tiny_model("qwen2_audio", [f"What is {n}? A dog or {n} cats." for n in range(50)], out, vocab_size=400)
    return out


@pytest.fixture(scope="module")
def batch(folder: Path) -> MicroBatch:
    rng = np.random.default_rng(0)
    examples = [
        Example(f"e{n}", "a", rng.normal(size=8000 * (n + 1)).astype("float32"), 16_000, "What is it?", answer)
        for n, answer in enumerate(["a dog", "two cats and a dog", "cats"])
    ]
    return make_micro_batch(examples, pinned(AnswerEncoder(load_processor(str(folder))), GPU))


def loss_and_gradient(folder: Path, batch: MicroBatch, speed: SpeedConfig, **keys: Any) -> tuple[float, torch.Tensor]:
    torch.manual_seed(0)
    model = load_model(ModelConfig(path=str(folder), **keys)).to(GPU).train()
    loss = TeacherForcing(model, GPU, speed).loss(batch)
    loss.mean.backward()
    return float(loss.mean), torch.cat([p.grad.flatten().float() for p in trainable_parameters(model).values()])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_liger_gives_the_plain_loss_and_gradient(folder: Path, batch: MicroBatch, dtype: str) -> None:
    pytest.importorskip("liger_kernel")
    plain, theirs = loss_and_gradient(folder, batch, SpeedConfig(answer_logits=False), dtype=dtype)
    fused, ours = loss_and_gradient(folder, batch, SpeedConfig(cross_entropy="liger"), dtype=dtype)
    limit = 1e-4 if dtype == "fp32" else 3e-2
    assert fused == pytest.approx(plain, rel=limit)
    assert float((ours - theirs).norm() / theirs.norm()) < limit


def test_flash_attention_gives_the_plain_loss(folder: Path, batch: MicroBatch) -> None:
    pytest.importorskip("flash_attn")
    plain, theirs = loss_and_gradient(folder, batch, SpeedConfig(), dtype="bf16", attention="eager")
    flash, ours = loss_and_gradient(folder, batch, SpeedConfig(), dtype="bf16", attention="flash")
    assert flash == pytest.approx(plain, rel=2e-2)
    assert float((ours - theirs).norm() / theirs.norm()) < 5e-2


def test_batches_are_pinned_and_a_step_is_measured(folder: Path, batch: MicroBatch) -> None:
    assert all(tensor.is_pinned() for tensor in batch.inputs.values())
    model = load_model(ModelConfig(path=str(folder))).to(GPU).train()
    meter, sums = Meter(model, GPU, "bf16", SingleProcess()), StepSums(["a"], GPU)
    meter.begin()
    meter.data_ready()
    with sums.timed():
        with meter.forward():
            loss = TeacherForcing(model, GPU).loss(batch)
        loss.mean.backward()
    sums.add(loss)
    table, rows = sums.reduced(SingleProcess(), meter.rows([batch], 0))
    numbers = meter.end(rows, 3)
    assert table[0, 0] > 0 and table[0, 2] == 3 and 0 < float(table[0, 3]) < 60
    memory = numbers["memory"]
    assert 0 < memory["gpu_allocated_gib"] <= memory["gpu_peak_gib"] <= memory["gpu_reserved_gib"] + 1e-6
    assert 0 <= numbers.get("gpu_utilisation", 0) <= 1
    if "mfu" in numbers["throughput"]:
        assert 0 < numbers["throughput"]["mfu"] < 1

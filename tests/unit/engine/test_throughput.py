"""Rates, memory and operations per step: against sums done by hand and torch's own count of operations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from pipeline.dist import SingleProcess
from pipeline.engine.flops import FlopCount, peak_flops
from pipeline.engine.step_sums import StepSums
from pipeline.engine.throughput import COLUMNS, GIB, Meter, RankRow, StepRates, memory, rates
from pipeline.models.loss import Share, StepLoss
from pipeline.types import MicroBatch

CPU = torch.device("cpu")
ROW = RankRow(0.1, 300, 12.0, 0.0, 1, 2.0, 3.0, 4.0, 0.5)


class TwoRanks(SingleProcess):
    """Rank 1 of two; the other rank's numbers are added by hand."""

    rank, world_size = 1, 2


def batch(tokens: int, padding: int, audio_s: float) -> MicroBatch:
    mask = torch.tensor([[1] * tokens + [0] * padding])
    return MicroBatch("a", ("x",), {"input_ids": torch.zeros_like(mask), "attention_mask": mask}, audio_s)


def test_rates_are_sums_over_seconds() -> None:
    steps = [StepRates(2.0, 0.5, 16, 1000, 80.0, 3e12), StepRates(3.0, 0.0, 16, 1500, 120.0, 6e12)]
    got = rates(steps, peak=1e12, world_size=2)
    assert got == pytest.approx(
        {"samples_per_s": 6.4, "tokens_per_s": 500.0, "audio_s_per_s": 40.0, "data_wait_share": 0.1, "mfu": 0.9}
    )
    assert "mfu" not in rates(steps, peak=None, world_size=2)


def test_memory_is_of_the_rank_that_has_most() -> None:
    rows = [ROW, replace(ROW, used_gib=5.0, peak_gib=1.0)]
    assert memory(rows, is_gpu=False) == {"rss_gib": 5.0, "rss_peak_gib": 4.0}
    assert memory(rows, is_gpu=True) == {"gpu_allocated_gib": 5.0, "gpu_reserved_gib": 3.0, "gpu_peak_gib": 4.0}


def test_a_rank_fills_its_own_row_and_all_rows_make_the_numbers() -> None:
    meter = Meter(torch.nn.Linear(2, 2), CPU, "fp32", TwoRanks())
    meter.begin()
    meter.data_ready()
    rows = meter.rows([batch(5, 2, 1.5), batch(4, 0, 2.5)], skipped=3)
    assert rows.shape == (2, len(COLUMNS)) and not rows[0].any()
    own = RankRow(*rows[1].tolist())
    assert (own.tokens, own.audio_s, own.skipped, own.flops, own.utilisation) == (9, 4.0, 3, 0, -1)
    assert 0 < own.used_gib * GIB <= own.peak_gib * GIB + 2**20
    rows[0] = torch.tensor([own.wait_s + 7, 11, 6.0, 0, 1, 0, 0, 0, -1])
    numbers = meter.end(rows, samples=4)
    speed = numbers["throughput"]
    assert numbers["skipped"] == 4 and "gpu_utilisation" not in numbers and set(numbers["memory"]) >= {"rss_gib"}
    assert speed["tokens_per_s"] / speed["samples_per_s"] == pytest.approx(20 / 4)
    assert speed["audio_s_per_s"] / speed["samples_per_s"] == pytest.approx(10 / 4)
    assert speed["data_wait_share"] > 7 * speed["samples_per_s"] / 4  # the slower rank's wait


def test_one_all_reduce_sums_losses_and_whatever_goes_along() -> None:
    class Doubling(SingleProcess):
        calls = 0

        def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return tensor.mul_(2)

    comm, sums = Doubling(), StepSums(["a", "b"], CPU)
    for shares, losses in (
        ([Share("b", None, 5, 2)], [3.0]),
        ([Share("a", None, 2, 1), Share("b", None, 1, 3)], [1, 2]),
    ):
        with sums.timed():
            pass
        sums.add(StepLoss(torch.tensor(0.0), torch.tensor(losses), shares, 0))
    table, more, last = sums.reduced(comm, torch.ones(2, 3, dtype=torch.float64), torch.tensor([0.5]).double())
    assert comm.calls == 1 and more.tolist() == [[2.0] * 3] * 2 and last.tolist() == [1.0]
    assert table[:, :3].tolist() == [[2, 4, 2], [10, 12, 10]] and (table[:, 3] > 0).all()


class Listener(torch.nn.Module):
    """A convolution and a layer below, a small language model above, as in an audio-text model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = torch.nn.Sequential(torch.nn.Conv1d(4, 32, 3, stride=2, padding=1), torch.nn.GELU())
        self.aligner = torch.nn.Linear(32, 32)
        config = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 3}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        self.llm = Qwen2ForCausalLM(Qwen2Config(**config, **heads, attn_implementation="eager"))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        heard = self.aligner(self.encoder(frames).transpose(1, 2))
        return self.llm(inputs_embeds=heard).logits


def listener(trained: str) -> torch.nn.Module:
    model = Listener()
    if trained == "lora":
        model.llm.requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]), model.llm)
    if trained in ("lora", "llm"):
        model.encoder.requires_grad_(False)
    return model.train()


@pytest.mark.parametrize("trained", ["lora", "llm", "all"])
def test_operations_are_those_that_torch_counts(trained: str) -> None:
    """All but the products of attention's scores, which are `bmm`."""
    model, frames = listener(trained), torch.randn(2, 4, 300)
    count, counter = FlopCount(model), FlopCounterMode(display=False)
    with counter:
        with count.counting():
            loss = model(frames).square().mean()
        loss.backward()
    by_kind = counter.get_flop_counts()["Global"]
    assert count.take() == sum(n for kind, n in by_kind.items() if "bmm" not in str(kind)) and count.take() == 0


@pytest.mark.parametrize("trained", ["lora", "all"])
def test_layers_run_again_in_backward_do_not_count(trained: str) -> None:
    model, frames = listener(trained), torch.randn(2, 4, 60)
    count, totals = FlopCount(model), []
    for checkpointing in (False, True):
        if checkpointing:
            model.llm.gradient_checkpointing_enable({"use_reentrant": False})
        with count.counting():
            loss = model(frames).square().mean()
        loss.backward()
        totals.append(count.take())
    assert totals[0] == totals[1] > 0


def test_layers_of_one_kind_count_together_and_only_when_asked() -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
    count, x = FlopCount(model), torch.ones(2, 5, 8, requires_grad=True)
    model(x)
    assert count.take() == 0
    with count.counting():
        model(x)
    assert count.take() == 6 * 3 * 64 * 10
    model.requires_grad_(False)
    with count.counting():
        model(x)
        model(x.detach())
    assert count.take() == (4 + 2) * 3 * 64 * 10


def test_peaks_of_gpus_by_name() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert peak_flops("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp16") == 312e12
    assert peak_flops("NVIDIA A10", "bf16") == 125e12 != peak_flops("NVIDIA A10G", "bf16")
    assert peak_flops("NVIDIA H200", "fp32") is None and peak_flops("Some Other GPU", "bf16") is None

"""Floating-point operations that a training step needs, and what share of a GPU's peak they make (MFU).

MFU is model FLOPs utilisation (Chowdhery et al. 2022, PaLM, arXiv 2204.02311, appendix B): the operations that forward
and backward need, over what the device could do in that time. Operations that are done twice to save memory
(activation checkpointing) do not count. Only products with weights do, as in 6 N per token (Kaplan et al. 2020, arXiv
2001.08361); scores of attention are left out, for a 7B model and 1,000 tokens about 4 % of the rest.

A weight of P elements takes 2 P operations for each position in forward. In backward it takes 2 P more if its input
has a gradient, and 2 P more if it learns itself: 6 P in a trained layer, 4 P in a frozen layer above what learns (all
of a language model under LoRA), 2 P in a frozen encoder.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Dense bf16 and fp16 operations per second with fp32 sums, by NVIDIA's data sheets; a longer name comes first.
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A40": 150e12,
    "A30": 165e12,
    "RTX A6000": 155e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}


def peak_flops(device_name: str, dtype: str) -> float | None:
    """Of one GPU by its name as CUDA gives it; None where it is not known, and for fp32, which has no one peak."""
    if dtype == "fp32":
        return None
    words = re.split(r"[\s_-]+", device_name)
    for name, peak in PEAK_FLOPS.items():
        if all(word in words for word in name.split()):
            return peak
    return None


class FlopCount:
    """Counts a model's operations by hooks on its linear layers and convolutions.

    Layers that differ only in their number see the same positions, so one of them, the last, counts for all.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.total = 0.0
        self._counting = False
        alike: dict[tuple[str, bool], list[torch.nn.Module]] = defaultdict(list)
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv1d | torch.nn.Conv2d):
                alike[re.sub(r"\.\d+(?=\.|$)", ".*", name), module.weight.requires_grad].append(module)
        self._handles = [
            modules[-1].register_forward_hook(self._count(sum(map(_elements, modules)))) for modules in alike.values()
        ]

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Around the forward pass; layers that backward runs again do not count."""
        self._counting = True
        try:
            yield
        finally:
            self._counting = False

    def take(self) -> float:
        """Operations since the last call."""
        total, self.total = self.total, 0.0
        return total

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _count(self, elements: int) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if self._counting:
                times = 1 + inputs[0].requires_grad + module.weight.requires_grad
                self.total += 2.0 * times * elements * _positions(module, inputs[0], output)

        return hook


def _elements(module: Any) -> int:
    """Of a layer's weight; by its sizes, because ZeRO-3 leaves an empty tensor in its place."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features * module.out_features
    return int(module.out_channels * module.in_channels // module.groups * math.prod(module.kernel_size))


def _positions(module: Any, given: torch.Tensor, output: torch.Tensor) -> int:
    """How often the weight is used; by a linear layer's input, for a fused loss has no output of its own width."""
    if isinstance(module, torch.nn.Linear):
        return given.numel() // module.in_features
    return output.numel() // int(module.out_channels)

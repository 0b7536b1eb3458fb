"""A decoder of Llama's shape with LoRA on its seven projections, in plain torch: for machines with nothing else."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

RANK = 16
HEAD = 128
EXPANSION = 11_008 / 4096  # of the feed-forward layer


class LoraLinear(nn.Module):
    """A frozen matrix and two thin trainable ones."""

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        super().__init__()

        def random(rows: int, columns: int) -> torch.Tensor:
            return torch.randn(rows, columns, device=device, dtype=torch.bfloat16) * inputs**-0.5

        self.weight = nn.Parameter(random(outputs, inputs), requires_grad=False)
        self.lora_A = nn.Parameter(random(RANK, inputs))
        self.lora_B = nn.Parameter(random(outputs, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight) + functional.linear(functional.linear(x, self.lora_A), self.lora_B)


class Block(nn.Module):
    """Causal attention and a gated feed-forward layer, each after a norm without weights and beside its residual."""

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        hidden = round(EXPANSION * width / 64) * 64
        self.heads = width // HEAD
        self.q_proj = LoraLinear(width, width, device)
        self.k_proj = LoraLinear(width, width, device)
        self.v_proj = LoraLinear(width, width, device)
        self.o_proj = LoraLinear(width, width, device)
        self.gate_proj = LoraLinear(width, hidden, device)
        self.up_proj = LoraLinear(width, hidden, device)
        self.down_proj = LoraLinear(hidden, width, device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = functional.rms_norm(x, x.shape[-1:])
        q, k, v = (self._split(project(normed)) for project in (self.q_proj, self.k_proj, self.v_proj))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o_proj(mixed.transpose(1, 2).flatten(2))
        normed = functional.rms_norm(x, x.shape[-1:])
        return x + self.down_proj(functional.silu(self.gate_proj(normed)) * self.up_proj(normed))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, width] -> [B, heads, T, HEAD]."""
        return x.unflatten(-1, (self.heads, HEAD)).transpose(1, 2)


def lora_stack(width: int, layers: int, device: torch.device) -> nn.Sequential:
    """`layers` blocks with 14 trainable tensors each, in bfloat16; width 4096 and 32 layers are those of a 7B model."""
    torch.manual_seed(0)
    return nn.Sequential(*(Block(width, device) for _ in range(layers)))

"""A model of a few hundred parameters with everything that optimizers treat differently."""

from __future__ import annotations

import torch
from transformers.modeling_outputs import CausalLMOutput

VOCAB = 17


class Attention(torch.nn.Module):
    """Named and shaped as Adam-mini looks for it: heads of 3 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim = 3
        self.q_proj = torch.nn.Linear(6, 6)
        self.k_proj = torch.nn.Linear(6, 6)


class TinyModel(torch.nn.Module):
    """A few hundred parameters in matrices of odd sizes, vectors, a norm and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(VOCAB, 6)
        self.attention = Attention()
        self.frozen = torch.nn.Linear(6, 6).requires_grad_(False)
        self.norm = torch.nn.LayerNorm(6)
        self.wide = torch.nn.Linear(6, 11)
        self.head = torch.nn.Linear(11, VOCAB)

    def forward(self, input_ids: torch.Tensor) -> CausalLMOutput:
        x = self.embed(input_ids)
        x = x + torch.tanh(self.attention.q_proj(x)) * self.attention.k_proj(x) + self.frozen(x)
        return CausalLMOutput(logits=self.head(torch.tanh(self.wide(self.norm(x)))))

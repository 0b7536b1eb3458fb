"""BEATs (Chen et al. 2022, arXiv 2212.09058): a transformer over patches of a filterbank, as SALMONN's second encoder.

Shapes: `N` clips, `F` frames of the filterbank, `M` mel bins, `P` patches, `H` channels, `A` attention heads.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import dropout, gelu, scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers import initialization as init

from pipeline.models.salmonn.config import BeatsConfig


def relative_buckets(length: int, num_buckets: int, max_distance: int) -> torch.Tensor:
    """[length, length]: the bucket of each key's distance from each query (T5's, Raffel et al. 2020).

    Half of the buckets are for keys behind the query. Of each half, the first half holds one distance a bucket; the
    rest grow by a constant factor up to `max_distance`, and the last takes all beyond.
    """
    positions = torch.arange(length)
    distance = positions[None, :] - positions[:, None]
    half = num_buckets // 2
    exact = half // 2
    away = distance.abs()
    scale = (half - exact) / math.log(max_distance / exact)
    grown = exact + (torch.log(away.clamp(min=1).float() / exact) * scale).long()
    return (distance > 0) * half + torch.where(away < exact, away, grown.clamp(max=half - 1))


class BeatsAttention(nn.Module):
    """Self-attention with a relative position bias that each head opens and closes by its query (WavLM's gate)."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // self.heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))

    def forward(self, hidden: torch.Tensor, position_bias: torch.Tensor, closed: torch.Tensor | None) -> torch.Tensor:
        """[N, P, H] of the same.

        Args:
            position_bias: [A, P, P], equal in all layers.
            closed: [N, 1, 1, P], where True keys are not attended to; None: all are.
        """
        query, key, value = (
            project(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = self.gate(query) * position_bias
        if closed is not None:
            bias = bias.masked_fill(closed, -torch.inf)
        rate = self.dropout if self.training else 0.0
        attended = scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=rate)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def gate(self, query: torch.Tensor) -> torch.Tensor:
        """[N, A, P, 1]: what the bias is multiplied by at each query: 1 to 2 where `grep_a` is 1."""
        update, reset = torch.sigmoid(self.grep_linear(query).unflatten(-1, (2, 4)).sum(-1)).unbind(-1)
        return (update * (reset * self.grep_a.squeeze(-1) - 1.0) + 2.0).unsqueeze(-1)


class BeatsLayer(nn.Module):
    """A transformer layer with norms behind the residuals and these scaled up: deep-norm (Wang et al. 2022)."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.self_attn = BeatsAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.alpha = (2 * config.num_hidden_layers) ** 0.25
        self.dropout = config.dropout
        self.activation_dropout = config.activation_dropout

    def forward(self, hidden: torch.Tensor, position_bias: torch.Tensor, closed: torch.Tensor | None) -> torch.Tensor:
        attended = dropout(self.self_attn(hidden, position_bias, closed), self.dropout, self.training)
        hidden = self.self_attn_layer_norm(hidden * self.alpha + attended)
        inner = dropout(gelu(self.fc1(hidden)), self.activation_dropout, self.training)
        return self.final_layer_norm(hidden * self.alpha + dropout(self.fc2(inner), self.dropout, self.training))


class BeatsModel(PreTrainedModel):
    """BEATs without its classifier.

    The published model drops whole layers at random in training; this one never does, for under ZeRO-3 a rank that
    left a layer out would wait for the others for ever. Its weight-normalised convolution holds the product, as a
    plain weight.
    """

    config_class = BeatsConfig
    main_input_name = "input_values"
    _supports_sdpa = True
    _no_split_modules = ["BeatsLayer"]  # noqa: RUF012 - as in all models of transformers

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__(config)
        patch, width = config.patch_size, config.hidden_size
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, patch, stride=patch, bias=False)
        self.patch_norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.patch_proj = nn.Linear(config.embed_dim, width)
        self.pos_conv = nn.Conv1d(
            width, width, config.conv_pos, padding=config.conv_pos // 2, groups=config.conv_pos_groups
        )
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.relative_attention_bias = nn.Embedding(config.num_buckets, config.num_attention_heads)
        self.layers = nn.ModuleList([BeatsLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BeatsAttention):
            init.ones_(module.grep_a)

    def forward(
        self, input_values: torch.Tensor, input_values_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode the whole patches of each clip, as if it stood alone.

        Args:
            input_values: [N, F, M] filterbank.
            input_values_mask: [N, F], False in padding, which is behind a clip's frames; None: there is none.

        Returns:
            [N, P, H], zeros at patches that are not a clip's own, and which are: [N, P] or None for all. Patches go
            through the mel bins first and then through time.
        """
        size = self.config.patch_size
        patches = self.patch_embedding(input_values.to(self.patch_embedding.weight.dtype).unsqueeze(1))
        hidden = self.patch_proj(self.patch_norm(patches.flatten(2).transpose(1, 2)))
        own = None
        if input_values_mask is not None:
            own = (input_values_mask.sum(1) // size).unsqueeze(1) > torch.arange(patches.shape[2], device=hidden.device)
            own = own.repeat_interleave(patches.shape[3], dim=1)
            hidden = hidden * own.unsqueeze(-1)
        hidden = hidden + self._position(hidden)
        hidden = dropout(self.layer_norm(hidden), self.config.dropout, self.training)
        buckets = relative_buckets(hidden.shape[1], self.config.num_buckets, self.config.max_distance)
        bias = self.relative_attention_bias(buckets.to(hidden.device)).permute(2, 0, 1)
        closed = None if own is None else ~own[:, None, None, :]
        for layer in self.layers:
            hidden = layer(hidden, bias, closed)
        return (hidden, None) if own is None else (hidden * own.unsqueeze(-1), own)

    def _position(self, hidden: torch.Tensor) -> torch.Tensor:
        """[N, P, H]: what the convolution sees around each patch; an even kernel gives one value too many."""
        return gelu(self.pos_conv(hidden.transpose(1, 2))[..., : hidden.shape[1]]).transpose(1, 2)

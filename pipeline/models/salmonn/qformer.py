"""SALMONN's aligner: the encoders' frames side by side, cut into windows, each of which becomes one token.

Shapes: `N` clips, `T` frames, `C` channels of both encoders, `W` windows, `K` frames a window, `Q` queries a window,
`H` channels of the language model.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad
from transformers import Blip2QFormerModel

from pipeline.models.salmonn.config import SalmonnConfig


class SalmonnAligner(nn.Module):
    """A norm for each encoder, the window-level Q-Former, and a linear layer into the language model.

    The Q-Former is BLIP-2's (Li et al. 2023): BERT layers in which learned queries look at a window by cross-attention.
    Windows know nothing of each other.
    """

    def __init__(self, config: SalmonnConfig) -> None:
        super().__init__()
        self.window_frames, self.stride_frames = config.window_frames, config.stride_frames
        width = config.qformer_config.hidden_size
        self.ln_speech = nn.LayerNorm(config.speech_config.d_model)
        self.ln_audio = nn.LayerNorm(config.audio_config.hidden_size) if config.audio_config else None
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, width))
        self.qformer = Blip2QFormerModel._from_config(config.qformer_config)
        self.projection = nn.Linear(width, config.text_config.hidden_size)

    def forward(
        self, speech: torch.Tensor, audio: torch.Tensor | None = None, audio_own: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[N, W * Q, H] of the encoders' outputs.

        Args:
            speech: [N, T, C] of Whisper, always its whole window.
            audio: [N, P, C] of BEATs, as long as the longest clip needs; what lacks at the end is zero.
            audio_own: [N, P], False where `audio` is not of the clip; None: all is.
        """
        frames = self.ln_speech(speech)
        if self.ln_audio is not None:
            assert audio is not None
            beside = self.ln_audio(audio)
            if audio_own is not None:
                beside = beside * audio_own.unsqueeze(-1)
            longest = max(frames.shape[1], beside.shape[1])
            both = [pad(each, (0, 0, 0, longest - each.shape[1])) for each in (frames, beside)]
            frames = torch.cat(both, dim=-1)
        windows = cut_windows(frames, self.window_frames, self.stride_frames)
        queries = self.query_tokens.expand(windows.shape[0], -1, -1)
        answered = self.qformer(query_embeds=queries, encoder_hidden_states=windows).last_hidden_state
        return self.projection(answered).view(len(speech), -1, self.projection.out_features)


def cut_windows(frames: torch.Tensor, length: int, stride: int) -> torch.Tensor:
    """[N * W, K, C] of [N, T, C]: all whole windows of each clip, in order; frames behind the last one are left out."""
    return frames.unfold(1, length, stride).transpose(2, 3).flatten(0, 1)

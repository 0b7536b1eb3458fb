"""Configuration of SALMONN (Tang et al. 2024, arXiv 2310.13289) and of its BEATs encoder (Chen et al. 2022)."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import Blip2QFormerConfig, PreTrainedConfig, WhisperConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

AUDIO_TOKEN = "<SpeechHere>"
PAD_TOKEN = "[PAD]"


class BeatsConfig(PreTrainedConfig):
    """BEATs as published (iteration 3+, fine-tuned on AudioSet-2M), the values that its checkpoint holds in `cfg`.

    Args:
        num_mel_bins: of the filterbank; with `patch_size` it gives the patches that one stretch of time is cut into.
        embed_dim: channels of the patch embedding, projected to `hidden_size` behind it.
        conv_pos, conv_pos_groups: kernel and groups of the convolution that adds position.
        num_buckets, max_distance: of the relative position bias, see `relative_buckets`.
    """

    model_type = "salmonn_beats"

    num_mel_bins: int = 128
    patch_size: int = 16
    embed_dim: int = 512
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    conv_pos: int = 128
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02


class SalmonnConfig(PreTrainedConfig):
    """A Whisper encoder, perhaps BEATs beside it, a window-level Q-Former and a language model.

    Args:
        speech_config: Whisper's; only its encoder is part of the model.
        audio_config: BEATs'; None: a model without it.
        qformer_config: its `encoder_hidden_size` is the sum of the encoders' widths.
        text_config: of the language model.
        window_s: seconds that Whisper's `max_source_positions` stand for.
        second_per_window, second_stride: length of the Q-Former's windows and from one to the next.
        num_query_tokens: tokens that each window becomes.
        audio_token_id: the token in whose places a clip's `audio_length` tokens go.
    """

    model_type = "salmonn"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "speech_config": WhisperConfig,
        "audio_config": SubConfigSpec(config_class=BeatsConfig, optional=True),
        "qformer_config": Blip2QFormerConfig,
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    speech_config: Any = None
    audio_config: Any = None
    qformer_config: Any = None
    text_config: Any = None
    window_s: float | int = 30.0
    second_per_window: float = 0.333333
    second_stride: float = 0.333333
    num_query_tokens: int = 1
    audio_token_id: int = 32_001
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    @property
    def window_frames(self) -> int:
        """Whisper's frames in one window of the Q-Former: 17 of 1500 as published."""
        return round(self.speech_config.max_source_positions * self.second_per_window / self.window_s)

    @property
    def stride_frames(self) -> int:
        """Whisper's frames from one window to the next."""
        return round(self.speech_config.max_source_positions * self.second_stride / self.window_s)

    @property
    def audio_length(self) -> int:
        """Tokens that a clip takes in the prompt, whatever it lasts: 88 as published; frames at the end are left over.

        BEATs must not give more tokens for a whole window than Whisper gives frames (published: 1496 and 1500).
        """
        windows = (self.speech_config.max_source_positions - self.window_frames) // self.stride_frames + 1
        return windows * self.num_query_tokens


def qformer_config(encoder_width: int, **changes: int | float) -> Blip2QFormerConfig:
    """SALMONN's Q-Former: BERT-base cut to two layers, each with cross-attention.

    Args:
        encoder_width: what Whisper and BEATs give together.
    """
    values: dict[str, Any] = {
        "num_hidden_layers": 2,
        "cross_attention_frequency": 1,
        "encoder_hidden_size": encoder_width,
    }
    return Blip2QFormerConfig(**{**values, **changes})

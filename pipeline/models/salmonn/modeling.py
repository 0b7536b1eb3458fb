"""SALMONN as an ordinary `transformers` model: encoders, aligner, language model.

The published forward pass (github.com/bytedance/SALMONN, branch `salmonn`), with these choices:

- Every clip is padded to Whisper's window of 30 s, and all 88 tokens of the window reach the language model, the silent
  ones too: so the published model was trained, and leaving them out would change its answers.
- BEATs hears a clip to its own end; behind it its channels are zero. That is what the published code does with a clip
  alone. In its batches, clips shorter than the longest keep what BEATs makes of their padding; here a clip's tokens
  never depend on the clips beside it.
- The language model's LoRA is not part of this class: peft puts one around it, as for every other family.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from pipeline.models.salmonn.beats import BeatsModel
from pipeline.models.salmonn.config import SalmonnConfig
from pipeline.models.salmonn.qformer import SalmonnAligner


class SalmonnPreTrainedModel(PreTrainedModel):
    config_class = SalmonnConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # BLIP-2's Q-Former has no flash-attn and BEATs' bias allows none; what the whole is asked for, each part must have.
    _supports_flash_attn = False
    _supports_attention_backend = True
    _no_split_modules = ["LlamaDecoderLayer", "WhisperEncoderLayer", "BeatsLayer"]  # noqa: RUF012 - as in transformers

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SalmonnAligner):
            init.normal_(module.query_tokens, std=self.config.initializer_range)


class SalmonnEncoder(nn.Module):
    """Whisper's encoder and, where the model has it, BEATs: called once for all clips."""

    def __init__(self, config: SalmonnConfig) -> None:
        super().__init__()
        self.whisper = WhisperEncoder._from_config(config.speech_config)
        self.beats = BeatsModel._from_config(config.audio_config) if config.audio_config else None

    def forward(
        self,
        input_features: torch.Tensor,
        input_values: torch.Tensor | None = None,
        input_values_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Whisper's frames [N, T, C]; BEATs' patches [N, P, C] and which are a clip's own [N, P], or None twice."""
        speech = self.whisper(input_features.to(self.whisper.conv1.weight.dtype)).last_hidden_state
        if self.beats is None:
            return speech, None, None
        if input_values is None:
            raise ValueError("this model has a BEATs encoder: it needs `input_values`, which its processor makes")
        return speech, *self.beats(input_values, input_values_mask)


class SalmonnModel(SalmonnPreTrainedModel):
    """SALMONN without its output layer."""

    def __init__(self, config: SalmonnConfig) -> None:
        super().__init__(config)
        self.encoder = SalmonnEncoder(config)
        self.aligner = SalmonnAligner(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_audio_features(
        self,
        input_features: torch.Tensor,
        input_values: torch.Tensor | None = None,
        input_values_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[clips, audio_length, H] of what the processor makes of clips."""
        return self.aligner(*self.encoder(input_features, input_values, input_values_mask))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        input_values_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """The language model over tokens, in which each run of audio tokens is one clip, in the order of the clips.

        Raises:
            ValueError: audio tokens for another number of clips than there are.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
            if input_features is not None:
                assert input_ids is not None
                heard = self.get_audio_features(input_features, input_values, input_values_mask)
                inputs_embeds = self._with_audio(inputs_embeds, input_ids == self.config.audio_token_id, heard)
        return self.language_model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)

    @staticmethod
    def _with_audio(embeds: torch.Tensor, is_audio: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        places = int(is_audio.sum())
        if places != heard.shape[0] * heard.shape[1]:
            raise ValueError(
                f"{places} audio tokens in the prompts for {heard.shape[0]} clips of {heard.shape[1]} tokens each"
            )
        return embeds.masked_scatter(is_audio.unsqueeze(-1), heard.to(embeds.device, embeds.dtype))


class SalmonnForConditionalGeneration(SalmonnPreTrainedModel, GenerationMixin):
    """SALMONN with its output layer: logits, loss and `generate`."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012 - as in transformers

    def __init__(self, config: SalmonnConfig) -> None:
        super().__init__(config)
        self.model = SalmonnModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_audio_features(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.model.get_audio_features(*args, **kwargs)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        input_values_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, V] of the next token, with the mean loss over `labels` where these are given.

        Args:
            input_features: [clips, mel bins, frames] for Whisper.
            input_values, input_values_mask: [clips, frames, mel bins] and [clips, frames] for BEATs.
            logits_to_keep: the last so many positions, or these; 0: all.
        """
        outputs = self.model(
            input_ids=input_ids,
            input_features=input_features,
            input_values=input_values,
            input_values_mask=input_values_mask,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

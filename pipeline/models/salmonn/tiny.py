"""Tiny SALMONN, with BEATs and without."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers.processors import TemplateProcessing
from transformers import WhisperConfig

from pipeline.models.salmonn.config import AUDIO_TOKEN, PAD_TOKEN, BeatsConfig, SalmonnConfig, qformer_config
from pipeline.models.salmonn.modeling import SalmonnForConditionalGeneration
from pipeline.models.salmonn.processor import SalmonnProcessor
from pipeline.models.tiny.parts import (
    WINDOW_S,
    Tiny,
    TinySize,
    decoder,
    train_tokenizer,
    whisper_encoder,
    whisper_front,
)

BEGIN, END = "<s>", "</s>"
SPECIAL_TOKENS = ("<unk>", BEGIN, END, PAD_TOKEN, AUDIO_TOKEN)
BEATS_MELS = 64  # as many patches in a second as the tiny Whisper has frames, so that they fit as the published ones do


def salmonn(texts: Iterable[str], size: TinySize) -> Tiny:
    """Whisper and, if `size.beats`, BEATs of two layers, a Q-Former of two, and a Llama decoder: 31 tokens a clip."""
    tokenizer = train_tokenizer(texts, size.vocab_size, SPECIAL_TOKENS, pad=PAD_TOKEN, eos=END, bos=BEGIN)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.bos_token_id)]
    )
    config = _config(size, decoder(tokenizer, size.width), SPECIAL_TOKENS.index(AUDIO_TOKEN))
    processor = SalmonnProcessor(
        whisper_front(),
        tokenizer,
        audio_length=config.audio_length,
        fbank_mel_bins=config.audio_config.num_mel_bins if size.beats else None,
    )
    return Tiny(processor, lambda: SalmonnForConditionalGeneration(config))


def _config(size: TinySize, text: dict[str, object], audio_token_id: int) -> SalmonnConfig:
    width = size.width
    beats = BeatsConfig(
        num_mel_bins=BEATS_MELS,
        embed_dim=width // 2,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        conv_pos=16,
        conv_pos_groups=4,
    )
    qformer = qformer_config(
        2 * width if size.beats else width,
        hidden_size=width,
        intermediate_size=3 * width,
        num_attention_heads=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return SalmonnConfig(
        speech_config=WhisperConfig(**whisper_encoder(width)),
        audio_config=beats if size.beats else None,
        qformer_config=qformer,
        text_config={"model_type": "llama", **text},
        window_s=WINDOW_S,
        audio_token_id=audio_token_id,
    )

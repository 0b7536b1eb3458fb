"""Tiny Qwen2-Audio and Qwen2.5-Omni (its thinker)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
)

from pipeline.models.omni import Qwen2_5OmniProcessor
from pipeline.models.tiny.parts import (
    END_OF_TEXT,
    END_OF_TURN,
    Tiny,
    TinySize,
    decoder,
    token_id,
    train_tokenizer,
    whisper_encoder,
    whisper_front,
)

AUDIO = "<|AUDIO|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", END_OF_TURN, AUDIO, "<|audio_bos|>", "<|audio_eos|>")

OMNI_TOKENS = {
    "audio_token": AUDIO,
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
}
# ChatML with the audio between its marks, directly before the text.
OMNI_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen2_audio(texts: Iterable[str], size: TinySize) -> Tiny:
    """Model and processor; `texts` train the tokenizer."""
    tokenizer = train_tokenizer(texts, size.vocab_size, SPECIAL_TOKENS, pad=END_OF_TEXT, eos=END_OF_TURN)
    processor = Qwen2AudioProcessor(feature_extractor=whisper_front(), tokenizer=tokenizer)
    config = Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", **whisper_encoder(size.width)},
        text_config={"model_type": "qwen2", **decoder(tokenizer, size.width)},
        audio_token_index=token_id(tokenizer, AUDIO),
    )
    return Tiny(processor, lambda: Qwen2AudioForConditionalGeneration(config))


def qwen2_5_omni(texts: Iterable[str], size: TinySize) -> Tiny:
    """The thinker, with a vision tower of almost nothing, and a processor that takes no pictures."""
    special = (*SPECIAL_TOKENS, *(token for token in OMNI_TOKENS.values() if token not in SPECIAL_TOKENS))
    tokenizer = train_tokenizer(texts, size.vocab_size, special, pad=END_OF_TEXT, eos=END_OF_TURN, named=OMNI_TOKENS)
    processor = Qwen2_5OmniProcessor(
        feature_extractor=whisper_front(), tokenizer=tokenizer, chat_template=OMNI_TEMPLATE
    )
    config = _omni_config(tokenizer, size.width)
    return Tiny(processor, lambda: Qwen2_5OmniThinkerForConditionalGeneration(config))


def _omni_config(tokenizer: PreTrainedTokenizerFast, width: int) -> Qwen2_5OmniThinkerConfig:
    ids = {name: token_id(tokenizer, token) for name, token in OMNI_TOKENS.items()}
    half_head = width // 4 // 2
    of_space = half_head * 3 // 8  # as 24 of 64 in the published model; its time has the other 16
    text: dict[str, Any] = {
        **decoder(tokenizer, width),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1_000_000.0,
            "mrope_section": [half_head - 2 * of_space, of_space, of_space],
        },
        "tie_word_embeddings": False,
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 1,
        "out_hidden_size": width,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5OmniThinkerConfig(
        audio_config={**whisper_encoder(width), "n_window": 50, "output_dim": width},  # 50 pairs of frames: 2 s
        vision_config=vision,
        text_config=text,
        audio_token_index=ids["audio_token"],
        image_token_index=ids["image_token"],
        video_token_index=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        tie_word_embeddings=False,
    )
    # The model reads them, and its config class does not know them.
    for key, mark in (("vision_start_token_id", "vision_bos_token"), ("vision_end_token_id", "vision_eos_token")):
        setattr(config, key, ids[mark])
    return config

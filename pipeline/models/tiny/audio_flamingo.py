"""Tiny Audio Flamingo 3."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import AudioFlamingo3Config, AudioFlamingo3ForConditionalGeneration, AudioFlamingo3Processor

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

AUDIO = "<sound>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", END_OF_TURN, AUDIO)

# ChatML; all of a turn's audio stands before its text.
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'audio' %}<sound>{% endif %}{% endfor %}"
    "{% for content in message['content'] %}{{ content['text'] if content['type'] == 'text' }}{% endfor %}"
    "{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def audio_flamingo_3(texts: Iterable[str], size: TinySize) -> Tiny:
    """Model and processor; `texts` train the tokenizer."""
    tokenizer = train_tokenizer(texts, size.vocab_size, SPECIAL_TOKENS, pad=END_OF_TEXT, eos=END_OF_TURN)
    processor = AudioFlamingo3Processor(whisper_front(), tokenizer, chat_template=TEMPLATE)
    config = AudioFlamingo3Config(
        audio_config={"model_type": "audioflamingo3_encoder", **whisper_encoder(size.width)},
        text_config={"model_type": "qwen2", **decoder(tokenizer, size.width)},
        audio_token_id=token_id(tokenizer, AUDIO),
    )
    return Tiny(processor, lambda: AudioFlamingo3ForConditionalGeneration(config))

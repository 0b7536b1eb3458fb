"""Tiny Granite-Speech."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import GraniteSpeechConfig, GraniteSpeechForConditionalGeneration
from transformers.models.granite_speech.processing_granite_speech import GraniteSpeechProcessor

from pipeline.models.granite import GraniteSpeechFeatureExtractor
from pipeline.models.tiny.parts import Tiny, TinySize, decoder, token_id, train_tokenizer

MELS = 80  # the published size, as the stock extractor loads no other
END_OF_TEXT = "<|end_of_text|>"
AUDIO = "<|audio|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|start_of_role|>", "<|end_of_role|>", AUDIO)

# Every turn ends as a text does; the audio token is written in the user's text.
TEMPLATE = (
    "{% for message in messages %}"
    "<|start_of_role|>{{ message['role'] }}<|end_of_role|>{{ message['content'] }}<|end_of_text|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)


def granite_speech(texts: Iterable[str], size: TinySize) -> Tiny:
    """A conformer of two blocks, a window-level Q-Former with 3 queries for 15 frames, and a Granite decoder."""
    width = size.width
    tokenizer = train_tokenizer(texts, size.vocab_size, SPECIAL_TOKENS, pad=END_OF_TEXT, eos=END_OF_TEXT)
    features = GraniteSpeechFeatureExtractor(n_mels=MELS)
    processor = GraniteSpeechProcessor(features, tokenizer, chat_template=TEMPLATE)
    config = GraniteSpeechConfig(
        encoder_config={
            "input_dim": 2 * MELS,
            "num_layers": 2,
            "hidden_dim": width,
            "num_heads": 4,
            "context_size": 50,
            "max_pos_emb": 128,
            "dropout": 0.0,
        },
        projector_config={
            "model_type": "blip_2_qformer",
            "hidden_size": width,
            "encoder_hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "cross_attention_frequency": 1,
            "attention_probs_dropout_prob": 0.0,
            "hidden_dropout_prob": 0.0,
        },
        text_config={
            "model_type": "granite",
            **decoder(tokenizer, width),
            "attention_multiplier": 4 / width,  # one over the width of a head
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "tie_word_embeddings": True,
        },
        audio_token_index=token_id(tokenizer, AUDIO),
        has_lora_adapter=False,
    )
    return Tiny(processor, lambda: GraniteSpeechForConditionalGeneration(config))

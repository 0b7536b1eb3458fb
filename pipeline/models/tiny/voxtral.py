"""Tiny Voxtral, with a plain tokenizer in the place of `mistral_common`'s: the same control tokens at the same ids."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import VoxtralConfig, VoxtralForConditionalGeneration, VoxtralProcessor

from pipeline.models.tiny.parts import Tiny, TinySize, decoder, train_tokenizer, whisper_encoder, whisper_front

# The first control tokens of Mistral's tokenizers (Tekken), and those of audio; the processor counts on id 24.
SPECIAL_TOKENS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"),
    *("[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
    *("<SPECIAL_20>", "<SPECIAL_21>", "<SPECIAL_22>", "<SPECIAL_23>", "[AUDIO]", "[BEGIN_AUDIO]"),
)
AUDIO_ID = 24
WINDOW_S = 12  # 300 positions, which four by four make 75 audio tokens


def voxtral(texts: Iterable[str], size: TinySize) -> Tiny:
    """Model and processor; `texts` train the tokenizer."""
    tokenizer = train_tokenizer(texts, size.vocab_size, SPECIAL_TOKENS, pad="<pad>", eos="</s>", bos="<s>")
    # Four frames side by side are one row of the projector's input, so it is as wide as the feed-forward layers.
    encoder = {**whisper_encoder(size.width, WINDOW_S), "encoder_ffn_dim": 4 * size.width}
    config = VoxtralConfig(
        audio_config={"model_type": "voxtral_encoder", **encoder},
        text_config={"model_type": "llama", **decoder(tokenizer, size.width), "head_dim": size.width // 4},
        audio_token_id=AUDIO_ID,
    )
    return Tiny(VoxtralProcessor(whisper_front(WINDOW_S), tokenizer), lambda: VoxtralForConditionalGeneration(config))

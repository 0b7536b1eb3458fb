"""What the tiny models of several families have in common: their size, Whisper's front, a tokenizer, Qwen2's text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor

from pipeline.errors import ModelError

WINDOW_S = 10
SAMPLE_RATE_HZ = 16_000
HOP = 320
MELS = 64
MAX_TOKENS = 1024
# Of ChatML, in which the Qwen family writes conversations.
END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class TinySize:
    """How small: tokens in the vocabulary, and the width that all other widths follow.

    Attributes:
        beats: with a BEATs encoder, in a family that may have one or not.
    """

    vocab_size: int
    width: int
    beats: bool = True


@dataclass(frozen=True)
class Tiny:
    """A tiny model before its weights are drawn.

    Attributes:
        processor: whole, with its tokenizer.
        make: the model with the weights that `transformers` draws.
    """

    processor: Any
    make: Callable[[], Any]


def whisper_front(window_s: int = WINDOW_S) -> WhisperFeatureExtractor:
    """A window of `window_s` at 16 kHz: 64 mel bins every 20 ms."""
    return WhisperFeatureExtractor(
        feature_size=MELS, sampling_rate=SAMPLE_RATE_HZ, hop_length=HOP, chunk_length=window_s, n_fft=400
    )


def whisper_encoder(width: int, window_s: int = WINDOW_S) -> dict[str, Any]:
    """Two layers of a Whisper encoder for `whisper_front`, by the names of its config."""
    return {
        "num_mel_bins": MELS,
        "d_model": width,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 3 * width,
        "max_source_positions": window_s * SAMPLE_RATE_HZ // HOP // 2,  # after the second convolution
    }


def decoder(tokenizer: PreTrainedTokenizerFast, width: int) -> dict[str, Any]:
    """Three layers of a Llama-like decoder of `width`, by the names of its config."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_TOKENS,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.pad_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Sequence[str],
    *,
    pad: str,
    eos: str,
    bos: str | None = None,
    named: dict[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text of any language round-trips, also text it was not trained on.

    Args:
        special_tokens: first in the vocabulary, in this order.
        named: attribute -> special token, for processors that ask their tokenizer (`audio_token`).

    Raises:
        ModelError: no text.
    """
    sample = list(texts)
    if not sample:
        raise ModelError("no text to train a tokenizer on", hint="give prepared shards with --shards")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        sample,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(special_tokens),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=pad,
        eos_token=eos,
        additional_special_tokens=[token for token in special_tokens if token != pad],
        padding_side="right",
        **({} if bos is None else {"bos_token": bos}),
        **({} if named is None else {"extra_special_tokens": named}),
    )

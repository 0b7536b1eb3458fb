"""`gst model tiny`: a small random model of a real family, as an ordinary `from_pretrained` folder.

The tokenizer is byte-level BPE trained on the corpora's own text, with the family's special tokens and chat format,
so everything downstream treats it like the published model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)
from transformers.utils import logging as transformers_logging

from pipeline.errors import ModelError, NotBuiltYet

FAMILIES = ("qwen2_audio",)
FAMILIES_LATER = ("qwen2_5_omni", "audio_flamingo_3", "voxtral", "granite_speech", "salmonn")

END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", END_OF_TURN, "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")

WINDOW_S = 10
SAMPLE_RATE_HZ = 16_000
HOP = 320
MELS = 64


def write_tiny_model(
    family: str, texts: Iterable[str], out: Path, *, vocab_size: int = 2048, width: int = 128, seed: int = 0
) -> int:
    """Write a random model of `family` with its processor below `out`; returns its parameter count.

    Audio is a window of 10 s at 16 kHz: 64 mel bins every 20 ms, 125 audio tokens when full.

    Raises:
        ModelError: unknown family, or no text to train the tokenizer on.
        NotBuiltYet: a family that this version cannot write yet.
    """
    if family in FAMILIES_LATER:
        raise NotBuiltYet(f"tiny model of family `{family}`", hint=f"built so far: {', '.join(FAMILIES)}")
    if family not in FAMILIES:
        raise ModelError("unknown model family", got=family, expected=", ".join((*FAMILIES, *FAMILIES_LATER)))
    tokenizer = train_tokenizer(texts, vocab_size)
    processor = Qwen2AudioProcessor(
        feature_extractor=WhisperFeatureExtractor(
            feature_size=MELS, sampling_rate=SAMPLE_RATE_HZ, hop_length=HOP, chunk_length=WINDOW_S, n_fft=400
        ),
        tokenizer=tokenizer,
    )
    torch.manual_seed(seed)
    model = Qwen2AudioForConditionalGeneration(tiny_qwen2_audio_config(tokenizer, width))
    _scale_up_initial_weights(model)
    _set_sinusoid_positions(model.model.audio_tower.embed_positions)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    transformers_logging.disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return sum(parameter.numel() for parameter in model.parameters())


def tiny_qwen2_audio_config(tokenizer: PreTrainedTokenizerFast, width: int) -> Qwen2AudioConfig:
    """Two encoder layers and three decoder layers of `width`; every other ratio as in the published model."""
    audio = {
        "num_mel_bins": MELS,
        "d_model": width,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 3 * width,
        "max_source_positions": WINDOW_S * SAMPLE_RATE_HZ // HOP // 2,
    }
    text = {
        "model_type": "qwen2",
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.convert_tokens_to_ids(END_OF_TURN),
    }
    return Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", **audio},
        text_config=text,
        audio_token_index=SPECIAL_TOKENS.index("<|AUDIO|>"),  # special tokens come first in the vocabulary
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text of any language round-trips, also text it was not trained on."""
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
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=END_OF_TEXT,
        eos_token=END_OF_TURN,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        padding_side="right",
    )


def _scale_up_initial_weights(model: torch.nn.Module) -> None:
    """The published 0.02 is made for widths of thousands; a narrow model learns several times slower from it."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name and "lm_head" not in name:
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)


def _set_sinusoid_positions(embedding: torch.nn.Embedding) -> None:
    """Whisper's fixed positions: sines beside cosines, wavelengths from 2 pi to 20,000 pi frames."""
    length, channels = embedding.weight.shape
    rates = torch.exp(-torch.arange(channels // 2) * (math.log(10_000.0) / (channels // 2 - 1)))
    angles = torch.arange(length)[:, None] * rates[None, :]
    with torch.no_grad():
        embedding.weight.copy_(torch.cat([angles.sin(), angles.cos()], dim=1))


def read_parameter_count(folder: Path) -> int:
    """Number of parameters in a saved folder, from its safetensors headers."""
    from safetensors import safe_open

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is not iterable
                shape = tensors.get_slice(name).get_shape()
                total += int(torch.tensor(shape).prod())
    if not total:
        raise ModelError("no weights in this folder", where={"folder": folder}, expected="*.safetensors")
    return total


def describe(folder: Path) -> dict[str, object]:
    """What `gst model` prints about a folder."""
    config = json.loads((folder / "config.json").read_text())
    return {"model_type": config.get("model_type"), "parameters": read_parameter_count(folder)}

"""Random models for `gst bench trainer`: Qwen2-Audio with a window of 30 s, in other sizes than the mini one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

from pipeline.models.tiny.parts import whisper_encoder, whisper_front

WINDOW_S = 30
# What differs from the mini model, encoder and decoder; `7b` has the sizes of Qwen2-Audio-7B.
SIZES: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "mini": ({}, {}),
    "100m": (
        {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048},
        {
            "hidden_size": 640,
            "intermediate_size": 1728,
            "num_hidden_layers": 10,
            "num_attention_heads": 10,
            "num_key_value_heads": 10,
            "vocab_size": 32_000,
        },
    ),
    "7b": (
        {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120},
        {
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 156_032,
        },
    ),
}


def main() -> None:
    """Write one from the mini model's folder, whose tokenizer and chat template it keeps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("mini", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    count = write_model(options.mini, options.out, options.size)
    print(f"{options.size}: {count:,} parameters")


def write_model(mini: Path, out: Path, size: str) -> int:
    """Returns its parameters; in bf16 but for the mini size."""
    encoder, decoder = SIZES[size]
    config: Any = Qwen2AudioConfig.from_pretrained(mini)
    config.audio_config.update({**whisper_encoder(config.audio_config.d_model, WINDOW_S), **encoder})
    config.text_config.update({**decoder, "max_position_embeddings": 4096, "layer_types": None})
    config.text_config = type(config.text_config)(**config.text_config.to_dict())  # derives what hangs on the sizes
    processor = AutoProcessor.from_pretrained(mini)
    processor.feature_extractor = whisper_front(WINDOW_S)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32 if size == "mini" else torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2AudioForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    main()

"""The audio half of Qwen2.5-Omni's processor: the other half takes pictures, and needs torchvision to be loaded."""

from __future__ import annotations

from typing import Any

from transformers import AutoProcessor, ProcessorMixin
from transformers.models.qwen2_5_omni import processing_qwen2_5_omni as stock
from transformers.utils import is_torchvision_available


class Qwen2_5OmniProcessor(stock.Qwen2_5OmniProcessor):
    """The processor of `transformers` without pictures and video, under its own name; text and audio are its own."""

    def __init__(self, feature_extractor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        # Past the stock constructor, which asks for an image processor.
        ProcessorMixin.__init__(self, feature_extractor, tokenizer, chat_template=chat_template)
        for name in ("audio_token", "audio_bos_token", "audio_eos_token", "image_token", "video_token"):
            setattr(self, name, getattr(tokenizer, name))
        self.audio_token_id = tokenizer.convert_tokens_to_ids(self.audio_token)


def load_omni_processor(path: str) -> Any:
    """The processor of a Qwen2.5-Omni folder or hub name: the stock one where it can be loaded, else its audio half."""
    if is_torchvision_available():
        try:
            return AutoProcessor.from_pretrained(path)
        except (OSError, ValueError):  # a folder without settings for pictures: the tiny one has none
            pass
    return Qwen2_5OmniProcessor.from_pretrained(path)

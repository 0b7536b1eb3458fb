"""Examples to model inputs: prompt and audio through the model's own processor, answer appended, labels masked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.errors import ModelError
from pipeline.types import Example

IGNORE = -100


class AnswerEncoder:
    """Encodes examples for teacher forcing with any `transformers` audio-text processor.

    The prompt (chat template with audio and question) and the answer are tokenised apart, so that the answer's tokens
    never depend on the prompt's last token; labels cover the answer and the end-of-turn token only.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._sample_rate_hz = processor.feature_extractor.sampling_rate
        self._template = self._render_template("{question}")

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Tensors of one micro-batch: `input_ids attention_mask labels [B, T]` and the processor's audio tensors.

        Raises:
            ModelError: audio of another sample rate than the model's.
        """
        for example in examples:
            if example.sample_rate_hz != self._sample_rate_hz:
                raise ModelError(
                    "audio has another sample rate than the model takes",
                    where={"example": example.id},
                    got=f"{example.sample_rate_hz} Hz",
                    expected=f"{self._sample_rate_hz} Hz",
                    hint="run `gst-data prepare` again; it resamples to 16 kHz",
                )
        encoded = self._processor(
            text=[self._template.replace("{question}", example.question) for example in examples],
            audio=[example.audio for example in examples],
            sampling_rate=self._sample_rate_hz,
            return_tensors="pt",
            padding=True,
        )
        prompts = [
            ids[mask.bool()].tolist()
            for ids, mask in zip(encoded.pop("input_ids"), encoded.pop("attention_mask"), strict=True)
        ]
        answers = [self._answer_ids(example.answer) for example in examples]
        audio = {name: tensor for name, tensor in encoded.items() if isinstance(tensor, torch.Tensor)}
        return {**self._pad(prompts, answers), **audio}

    def _answer_ids(self, answer: str) -> list[int]:
        ids = self._tokenizer(answer, add_special_tokens=False)["input_ids"]
        return [*ids, self._tokenizer.eos_token_id]

    def _pad(self, prompts: list[list[int]], answers: list[list[int]]) -> dict[str, torch.Tensor]:
        length = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
        shape = (len(prompts), length)
        input_ids = torch.full(shape, self._tokenizer.pad_token_id)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORE)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            input_ids[row, :end] = torch.tensor(prompt + answer)
            attention_mask[row, :end] = 1
            labels[row, len(prompt) : end] = torch.tensor(answer)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}

    def _render_template(self, question: str) -> str:
        content = [{"type": "audio", "audio_url": "clip"}, {"type": "text", "text": question}]
        conversation = [{"role": "user", "content": content}]
        return self._processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)

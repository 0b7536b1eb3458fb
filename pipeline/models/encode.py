"""Examples to model inputs, for teacher forcing or to be answered: all through the model's own processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.errors import ModelError
from pipeline.types import Example

IGNORE = -100


class AnswerEncoder:
    """Encodes examples for any `transformers` audio-text model with its processor.

    The prompt (chat template with audio and question) and the answer are tokenised apart, so that the answer's tokens
    never depend on the prompt's last token; labels cover the answer and the end-of-turn token only.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._sample_rate_hz = processor.feature_extractor.sampling_rate
        self._template = self._render_template("{question}")

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """For teacher forcing: `input_ids attention_mask labels [B, T]`, padded on the right, and the audio's tensors.

        Raises:
            ModelError: audio of another sample rate than the model's.
        """
        prompts, audio = self._encode(examples)
        answers = [self._answer_ids(example.answer) for example in examples]
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        labels = [[IGNORE] * len(prompt) + answer for prompt, answer in zip(prompts, answers, strict=True)]
        return {**self._padded(rows), "labels": _pad(labels, IGNORE), **audio}

    def prompts(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """To be answered: `input_ids attention_mask [B, T]`, padded on the left, and the audio's tensors.

        Raises:
            ModelError: as when called.
        """
        prompts, audio = self._encode(examples)
        return {**self._padded(prompts, left=True), **audio}

    def texts(self, answers: torch.Tensor) -> list[str]:
        """Answers [B, T] in tokens as text, without special tokens."""
        texts = self._tokenizer.batch_decode(answers, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [text.strip() for text in texts]

    @property
    def pad_token_id(self) -> int:
        return int(self._tokenizer.pad_token_id)

    @property
    def eos_token_id(self) -> int:
        """The token that ends an answer."""
        return int(self._tokenizer.eos_token_id)

    def _encode(self, examples: Sequence[Example]) -> tuple[list[list[int]], dict[str, torch.Tensor]]:
        """Each example's prompt in tokens, without padding, and the processor's audio tensors."""
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
        return prompts, {name: tensor for name, tensor in encoded.items() if isinstance(tensor, torch.Tensor)}

    def _answer_ids(self, answer: str) -> list[int]:
        ids = self._tokenizer(answer, add_special_tokens=False)["input_ids"]
        return [*ids, self.eos_token_id]

    def _padded(self, rows: list[list[int]], left: bool = False) -> dict[str, torch.Tensor]:
        return {
            "input_ids": _pad(rows, self.pad_token_id, left),
            "attention_mask": _pad([[1] * len(row) for row in rows], 0, left),
        }

    def _render_template(self, question: str) -> str:
        content = [{"type": "audio", "audio_url": "clip"}, {"type": "text", "text": question}]
        conversation = [{"role": "user", "content": content}]
        return self._processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)


def _pad(rows: list[list[int]], value: int, left: bool = False) -> torch.Tensor:
    """[B, T] of rows of tokens, filled up with `value` to the longest one's length, on the right or on the left."""
    side = "left" if left else "right"
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=value, padding_side=side
    )

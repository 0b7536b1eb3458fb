"""Examples to model inputs, for teacher forcing or to be answered: all through the model's own processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from pipeline.errors import ModelError
from pipeline.models.family import family_of_processor, resolve
from pipeline.models.features import silent_outputs
from pipeline.models.prompts import ProcessorPrompts, Prompts, sample_rate_hz
from pipeline.models.short_audio import require_short_windows
from pipeline.types import Example

IGNORE = -100
# Several audio tokens of any encoder: Qwen2-Audio takes a prompt in which no two stand together for an old form of it.
DUMMY_S = 0.5


class AnswerEncoder:
    """Encodes examples for any `transformers` audio-text model with its processor.

    The prompt (chat template with audio and question) and the answer are tokenised apart, so that the answer's tokens
    never depend on the prompt's last token; labels cover the answer and the end-of-turn token only.

    Examples may lack audio (None). Where all of a micro-batch do, the audio encoder still runs, on a silent clip: under
    ZeRO-3 every rank gathers every module's weights, and one that left a module out would wait for ever. The prompt of
    that clip stands in the first row's padding, attended by nothing and with no label: it changes neither loss nor
    gradient.

    Args:
        processor: of the model; it also tells the family, whose way of making prompts is used.
        fast: compute log-mel by `LogMel` where the family's front is Whisper's; else the processor's own extractor
            does it, and cached features in the place of audio cannot be encoded.
        pad_audio: as in the recipe's `model.pad_audio`; `longest` needs a model loaded for it.

    Raises:
        ModelError: `longest`, and a family of which padding changes the clips.

    Attributes:
        family: of the processor, or None where it is not known.
        log_mel: what computes log-mel here, or None.
        sample_rate_hz: that audio must have.
        outputs_width: channels of the audio encoder's outputs, where examples hold these instead of audio.
    """

    def __init__(
        self, processor: Any, *, fast: bool = False, pad_audio: Literal["window", "longest"] = "window"
    ) -> None:
        self.family = family_of_processor(processor)
        longest = pad_audio == "longest"
        if longest:
            require_short_windows(self.family, type(processor).__name__)
        kind = ProcessorPrompts if self.family is None else resolve(self.family.prompts)
        self._prompts: Prompts = kind(processor, self.family, fast=fast, longest=longest)
        self.log_mel = self._prompts.log_mel
        self.outputs_width: int | None = None
        self._tokenizer = processor.tokenizer
        self.sample_rate_hz = sample_rate_hz(processor)

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """For teacher forcing: `input_ids attention_mask labels [B, T]`, padded on the right, and the audio's tensors.

        Raises:
            ModelError: audio of another sample rate than the model's.
        """
        prompts, audio, dummy = self._encode(examples)
        answers = [self._answer_ids(example.answer) for example in examples]
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        labels = [[IGNORE] * len(prompt) + answer for prompt, answer in zip(prompts, answers, strict=True)]
        labels = _beside_first(labels, [IGNORE] * len(dummy))
        return {**self._padded(rows, dummy), "labels": _pad(labels, IGNORE), **audio}

    def prompts(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """To be answered: `input_ids attention_mask [B, T]`, padded on the left, and the audio's tensors.

        Raises:
            ModelError: as when called.
        """
        prompts, audio, dummy = self._encode(examples)
        return {**self._padded(prompts, dummy, left=True), **audio}

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

    def _encode(self, examples: Sequence[Example]) -> tuple[list[list[int]], dict[str, torch.Tensor], list[int]]:
        """Each example's prompt in tokens, without padding; the processor's audio tensors; a dummy clip's prompt.

        The last is empty where any example has audio.
        """
        heard = [example for example in examples if example.audio is not None]
        spoken, audio = self._with_audio(heard or [self._silence()])
        dummy = [] if heard else spoken.pop()
        prompts = [
            self._prompts.read(example.question) if example.audio is None else spoken.pop(0) for example in examples
        ]
        return prompts, audio, dummy

    def _silence(self) -> Example:
        silence: Any = np.zeros(round(DUMMY_S * self.sample_rate_hz), dtype=np.float32)
        if self.outputs_width is not None:
            silence = silent_outputs(self.outputs_width, len(silence))
        return Example("(silence)", "(none)", silence, self.sample_rate_hz, question="", answer="")

    def _with_audio(self, examples: Sequence[Example]) -> tuple[list[list[int]], dict[str, torch.Tensor]]:
        """Prompts of examples that all have audio, and the processor's audio tensors."""
        for example in examples:
            if example.sample_rate_hz != self.sample_rate_hz:
                raise ModelError(
                    "audio has another sample rate than the model takes",
                    where={"example": example.id},
                    got=f"{example.sample_rate_hz} Hz",
                    expected=f"{self.sample_rate_hz} Hz",
                    hint="run `gst-data prepare` again; it resamples to 16 kHz",
                )
        return self._prompts.heard([example.question for example in examples], [example.audio for example in examples])

    def _answer_ids(self, answer: str) -> list[int]:
        ids = self._tokenizer(answer, add_special_tokens=False)["input_ids"]
        return [*ids, self.eos_token_id]

    def _padded(self, rows: list[list[int]], dummy: list[int], left: bool = False) -> dict[str, torch.Tensor]:
        masks = _beside_first([[1] * len(row) for row in rows], [0] * len(dummy), left)
        return {
            "input_ids": _pad(_beside_first(rows, dummy, left), self.pad_token_id, left),
            "attention_mask": _pad(masks, 0, left),
        }


def _beside_first(rows: list[list[int]], more: list[int], left: bool = False) -> list[list[int]]:
    """The rows, with `more` on the padded side of the first one."""
    return [[*more, *rows[0]] if left else [*rows[0], *more], *rows[1:]]


def _pad(rows: list[list[int]], value: int, left: bool = False) -> torch.Tensor:
    """[B, T] of rows of tokens, filled up with `value` to the longest one's length, on the right or on the left."""
    side = "left" if left else "right"
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=value, padding_side=side
    )

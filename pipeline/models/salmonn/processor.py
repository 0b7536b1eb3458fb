"""SALMONN's processor: prompts as the published model was trained on them, and clips for its two encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchFeature, ProcessorMixin

from pipeline.models.salmonn.config import AUDIO_TOKEN
from pipeline.models.salmonn.fbank import kaldi_fbank

MIN_CLIP_S = 1  # shorter clips end in silence, as in the published code

# `USER: <Speech><SpeechHere></Speech> question\nASSISTANT:`; a conversation goes on behind each answer's end token.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'audio' %}{{ '<Speech>" + AUDIO_TOKEN + "</Speech> ' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '\\n' }}"
    "{% else %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


class SalmonnProcessor(ProcessorMixin):
    """Whisper's feature extractor and the language model's tokenizer, and Kaldi's filterbank for BEATs.

    A prompt is tokenised piece by piece: before a clip and behind it, each as if it stood alone, behind one token that
    begins the text. So did the published code, and SentencePiece gives other tokens for the whole.

    Args:
        audio_token: stands once for each clip in a prompt.
        audio_length: tokens that it becomes.
        fbank_mel_bins: of BEATs' filterbank; None: a model without BEATs.
    """

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: Any,
        chat_template: str | None = None,
        audio_token: str = AUDIO_TOKEN,
        audio_length: int = 88,
        fbank_mel_bins: int | None = None,
    ) -> None:
        self.audio_token = audio_token
        self.audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        self.audio_length = audio_length
        self.fbank_mel_bins = fbank_mel_bins
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    def __call__(  # type: ignore[override]
        self,
        text: str | Sequence[str],
        audio: NDArray[np.float32] | Sequence[NDArray[np.float32]] | None = None,
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
        padding: bool | str = True,
        padding_side: str | None = None,
        audio_kwargs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> BatchFeature:
        """`input_ids attention_mask [B, T]` and, with clips, `input_features`; with BEATs `input_values` and its mask.

        Args:
            text: prompts, as the chat template renders them.
            audio: mono clips in the order of their tokens in `text`; what is beyond Whisper's window is left out.
            sampling_rate: of the clips, here or in `audio_kwargs`; None: the model's.

        Raises:
            ValueError: clips of another rate, or another number of clips than audio tokens.
        """
        texts = [text] if isinstance(text, str) else list(text)
        clips = [] if audio is None else [audio] if isinstance(audio, np.ndarray) and audio.ndim == 1 else list(audio)
        wanted = sum(each.count(self.audio_token) for each in texts)
        if wanted != len(clips):
            raise ValueError(f"{len(clips)} clips for {wanted} times {self.audio_token} in the prompts")
        tokens = self.tokenizer.pad(
            {"input_ids": [self._prompt_ids(each) for each in texts]},
            padding=padding,
            padding_side=padding_side or self.tokenizer.padding_side,
            return_tensors=return_tensors,
        )
        rate_hz = sampling_rate or (audio_kwargs or {}).get("sampling_rate")
        heard = self._heard(clips, rate_hz) if clips else {}
        return BatchFeature({**tokens, **heard}, tensor_type=return_tensors)

    @property
    def model_input_names(self) -> list[str]:
        beats = [] if self.fbank_mel_bins is None else ["input_values", "input_values_mask"]
        return [*self.tokenizer.model_input_names, "input_features", *beats]

    def _prompt_ids(self, prompt: str) -> list[int]:
        ids = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        for number, piece in enumerate(prompt.split(self.audio_token)):
            ids += [self.audio_token_id] * (self.audio_length if number else 0)
            ids += self.tokenizer(piece, add_special_tokens=False)["input_ids"] if piece else []
        return ids

    def _heard(self, clips: Sequence[NDArray[np.float32]], sampling_rate: int | None) -> dict[str, torch.Tensor]:
        extractor = self.feature_extractor
        rate_hz = extractor.sampling_rate
        clips = [np.asarray(clip, dtype=np.float32)[: extractor.n_samples] for clip in clips]
        clips = [np.pad(clip, (0, max(0, MIN_CLIP_S * rate_hz - len(clip)))) for clip in clips]
        features = extractor(clips, sampling_rate=sampling_rate or rate_hz, return_tensors="pt")
        heard = {"input_features": features["input_features"]}
        if self.fbank_mel_bins is not None:
            banks = [kaldi_fbank(clip, self.fbank_mel_bins) for clip in clips]
            frames = torch.tensor([len(bank) for bank in banks])
            heard["input_values"] = torch.nn.utils.rnn.pad_sequence(banks, batch_first=True)
            heard["input_values_mask"] = torch.arange(int(frames.max())) < frames[:, None]
        return heard


def load_salmonn_processor(path: str) -> SalmonnProcessor:
    """The processor of a `from_pretrained` folder or hub name."""
    return SalmonnProcessor.from_pretrained(path)

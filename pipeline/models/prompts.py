"""Prompts in tokens, and the tensors of the audio that they speak of, in each family's own way.

A prompt is one user turn: the clip, then the question, then whatever opens the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.models.family import Family
from pipeline.models.features import LogMel, fill
from pipeline.models.short_audio import frames_needed
from pipeline.types import ClipFeatures

Encoded = tuple[list[list[int]], dict[str, torch.Tensor]]


class Prompts(Protocol):
    """What a family's `prompts` names; made once and called by many threads.

    Attributes:
        log_mel: what computes log-mel here, or None where the processor's extractor does.
    """

    log_mel: LogMel | None

    def __init__(self, processor: Any, family: Family | None, *, fast: bool, longest: bool) -> None: ...

    def heard(self, questions: Sequence[str], clips: Sequence[Any]) -> Encoded:
        """Prompts of questions about clips (samples [T] or `ClipFeatures`), without padding, and the audio tensors."""
        ...

    def read(self, question: str) -> list[int]:
        """The prompt of a question without audio."""
        ...


class ProcessorPrompts:
    """Prompts by the processor's chat template, for any `transformers` audio-text model that has one.

    Args:
        processor: of the model; it renders the template and expands the audio token.
        family: None where it is not known.
        fast: compute log-mel by `LogMel` where the family's front is Whisper's.
        longest: pad to the longest clip in place of the window; for families that mask padding.
    """

    def __init__(self, processor: Any, family: Family | None, *, fast: bool = False, longest: bool = False) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._family = family
        self._longest = longest
        self.log_mel = fast_log_mel(processor, family) if fast else None

    def heard(self, questions: Sequence[str], clips: Sequence[Any]) -> Encoded:
        """See `Prompts.heard`: by our log-mel, or wholly by the processor; windows [N, M, T] and their mask."""
        texts = [self._template.replace("{question}", question) for question in questions]
        if self.log_mel is None or self._family is None:
            return self._by_processor(texts, clips)
        tensors, tokens = audio_tensors(self.log_mel, self._family, clips, self._longest)
        audio = self._tokenizer.convert_tokens_to_ids(self._processor.audio_token)
        rows = [_repeated(ids, audio, n) for ids, n in zip(self._tokenizer(texts)["input_ids"], tokens, strict=True)]
        return rows, tensors

    def read(self, question: str) -> list[int]:
        """See `Prompts.read`."""
        ids: list[int] = self._tokenizer(self._text_template.replace("{question}", question))["input_ids"]
        return ids

    def _by_processor(self, texts: list[str], clips: Sequence[Any]) -> Encoded:
        is_whisper = self._family is not None and self._family.whisper_front
        encoded = self._processor(
            text=texts,
            audio=list(clips),
            return_tensors="pt",
            text_kwargs={"padding": True},
            audio_kwargs={
                "sampling_rate": sample_rate_hz(self._processor),
                "padding": "max_length" if is_whisper else True,
            },
        )
        rows = [
            ids[mask.bool()].tolist()
            for ids, mask in zip(encoded.pop("input_ids"), encoded.pop("attention_mask"), strict=True)
        ]
        tensors = {name: tensor for name, tensor in encoded.items() if isinstance(tensor, torch.Tensor)}
        if self._longest and self._family is not None:
            tensors = _shortened(tensors, self._family)
        return rows, tensors

    @cached_property
    def _template(self) -> str:
        return self._rendered(has_audio=True)

    @cached_property
    def _text_template(self) -> str:
        return self._rendered(has_audio=False)

    def _rendered(self, has_audio: bool) -> str:
        family = self._family
        if family is not None and family.audio_in_text:
            content: Any = (self._processor.audio_token if has_audio else "") + "{question}"
        else:
            clip = [{"type": "audio", "audio_url": "clip"}] if has_audio else []
            content = [*clip, {"type": "text", "text": "{question}"}]
        conversation = [{"role": "user", "content": content}]
        if family is not None and family.system_prompt is not None:
            conversation.insert(0, {"role": "system", "content": family.system_prompt})
        text: str = self._processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        return text


class VoxtralPrompts:
    """Prompts of Voxtral, put together from tokens: its processor takes audio only in conversations of its own.

    `<s>[INST][BEGIN_AUDIO][AUDIO]...question[/INST]`, as `mistral_common` encodes one user turn (instruct v7 on). A
    clip always fills its windows: 375 audio tokens for each 30 s.

    Args: as of `ProcessorPrompts`; `longest` is refused before.
    """

    def __init__(self, processor: Any, family: Family | None, *, fast: bool = False, longest: bool = False) -> None:
        assert family is not None and not longest
        self._extractor = processor.feature_extractor
        self._tokenizer = processor.tokenizer
        self._family = family
        self.log_mel = fast_log_mel(processor, family) if fast else None

    def heard(self, questions: Sequence[str], clips: Sequence[Any]) -> Encoded:
        """See `Prompts.heard`: windows [W, M, T] of all clips, one after the other, and no mask."""
        if self.log_mel is not None:
            tensors, tokens = audio_tensors(self.log_mel, self._family, clips, longest=False)
        else:
            windows = [self._windows(clip) for clip in clips]
            tensors = {self._family.features: torch.cat(windows)}
            tokens = [len(each) * window_tokens(each.shape[-1]) for each in windows]
        audio = [[self._id("[BEGIN_AUDIO]"), *[self._id("[AUDIO]")] * n] for n in tokens]
        return [self._turn(clip, question) for clip, question in zip(audio, questions, strict=True)], tensors

    def read(self, question: str) -> list[int]:
        """See `Prompts.read`."""
        return self._turn([], question)

    def _turn(self, audio: list[int], question: str) -> list[int]:
        text = self._tokenizer(question, add_special_tokens=False)["input_ids"]
        return [self._id("<s>"), self._id("[INST]"), *audio, *text, self._id("[/INST]")]

    def _id(self, token: str) -> int:
        return int(self._tokenizer.convert_tokens_to_ids(token))

    def _windows(self, clip: Any) -> torch.Tensor:
        """[windows, M, T] of a clip: one spectrogram of it, padded to whole windows and cut into them."""
        window = self._extractor.n_samples
        spectrogram = self._extractor(
            clip,
            sampling_rate=self._extractor.sampling_rate,
            padding=True,
            truncation=False,
            pad_to_multiple_of=window,
            return_tensors="pt",
        )["input_features"][0]
        return torch.stack(spectrogram.split(window // self._extractor.hop_length, dim=1))


def sample_rate_hz(processor: Any) -> int:
    """What a processor's audio must be sampled at."""
    extractor = getattr(processor, "feature_extractor", None) or processor.audio_processor
    return int(extractor.sampling_rate)


def fast_log_mel(processor: Any, family: Family | None) -> LogMel | None:
    """Our log-mel for a processor, if its family's front is Whisper's and its extractor computes nothing else."""
    if family is None or not family.whisper_front or not LogMel.takes(processor.feature_extractor):
        return None
    limit_s = getattr(processor, "max_audio_len", None)
    max_windows = None if limit_s is None else int(limit_s // processor.feature_extractor.chunk_length)
    return LogMel(processor.feature_extractor, family.long_clips, max_windows)


def audio_tensors(
    log_mel: LogMel, family: Family, clips: Sequence[Any], longest: bool
) -> tuple[dict[str, torch.Tensor], list[int]]:
    """The model's audio tensors of clips, and how many audio tokens each clip has.

    Args:
        clips: samples [T] or `ClipFeatures`. Outputs of the encoder stand for all of them or for none; they go where
            log-mel frames would, for `pipeline.models.frozen_encoder`.
    """
    kinds = {clip.kind if isinstance(clip, ClipFeatures) else "audio" for clip in clips}
    assert "encoder" not in kinds or len(kinds) == 1
    are_outputs = kinds == {"encoder"}
    by_clip = [log_mel.valid_frames(len(clip)) for clip in clips]
    valid = torch.tensor([frames for windows in by_clip for frames in windows])
    values = [
        torch.from_numpy(np.array(clip.values)) if isinstance(clip, ClipFeatures) else log_mel(clip) for clip in clips
    ]
    per_window = outputs_per_window(log_mel, family) if are_outputs else log_mel.n_frames
    rows = [row for each, windows in zip(values, by_clip, strict=True) for row in _rows(each, len(windows), per_window)]
    if family.padding != "masked":
        tensors = {family.features: fill(rows, per_window)}
        return tensors, [len(windows) * window_tokens(log_mel.n_frames) for windows in by_clip]
    assert family.features_mask is not None
    n_frames = mask_frames = log_mel.n_frames
    if are_outputs:
        # One output for four frames, or a little more. Two at least: Qwen2-Audio makes a mask of half as many first.
        n_frames = max(2, int(valid.max()) // 4 + 1)
        if family.packs_frames:
            valid, mask_frames = pooled(valid), n_frames
    elif longest:
        n_frames = mask_frames = frames_needed(int(valid.max()), log_mel.n_frames)
    mask = (torch.arange(mask_frames) < valid[:, None]).int()
    tokens = [int(pooled(torch.tensor(sum(windows)))) for windows in by_clip]
    return {family.features: fill(rows, n_frames), family.features_mask: mask}, tokens


def pooled(frames: torch.Tensor) -> torch.Tensor:
    """Audio tokens for so many valid frames: a convolution of stride 2, then the mean of whole pairs."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def window_tokens(n_frames: int) -> int:
    """Audio tokens for a window that is all heard: four outputs of the encoder, of two frames each, are one token."""
    return n_frames // 8


def outputs_per_window(log_mel: LogMel, family: Family) -> int:
    """Outputs that an encoder gives for one full window: pooled in pairs, but by those that hear the whole window."""
    return log_mel.n_frames // (4 if family.padding == "masked" else 2)


def _rows(values: torch.Tensor, n_windows: int, per_window: int) -> list[torch.Tensor]:
    """A clip's values [M, F] window by window; all but the last are full."""
    return [values[:, k * per_window :][:, :per_window] if n_windows > 1 else values for k in range(n_windows)]


def _repeated(ids: list[int], token: int, n: int) -> list[int]:
    place = ids.index(token)
    return [*ids[:place], *[token] * n, *ids[place + 1 :]]


def _shortened(tensors: dict[str, torch.Tensor], family: Family) -> dict[str, torch.Tensor]:
    """The processor's features and their mask without the frames that nobody needs."""
    assert family.features_mask is not None
    mask = tensors[family.features_mask]
    n_frames = frames_needed(int(mask.sum(-1).max()), mask.shape[-1])
    cut = {name: tensors[name][..., :n_frames] for name in (family.features, family.features_mask)}
    return {**tensors, **cut}

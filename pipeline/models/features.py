"""Whisper's log-mel spectrogram, frame by frame as far as a clip reaches and no further.

`WhisperFeatureExtractor` of `transformers` pads every clip to its window (30 s) and transforms the silence as well.
Here each frame that lies wholly in that silence is known without being computed: they are all equal. Shapes: `B` clips,
`M` mel bins, `T` frames of the window, `F` frames of a clip, `N` points of the transform.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchFeature, Qwen2AudioProcessor, WhisperFeatureExtractor

from pipeline.types import ClipFeatures

FORMAT = 1  # of the values; part of `LogMel.digest`


class LogMel:
    """Computes what a `WhisperFeatureExtractor` computes, with its window, filters and hop; safe in many threads.

    The definition (Radford et al. 2022, and `transformers`): power of a short-time Fourier transform with a Hann
    window and centred frames, mirrored at both ends of the padded window; times the mel filters; log10, at least
    1e-10 before it; at least the clip's maximum - 8 after it; (x + 4) / 4. A clip beyond the window is cut.

    Args:
        extractor: one that `LogMel.takes`.
    """

    def __init__(self, extractor: Any) -> None:
        assert LogMel.takes(extractor)
        self.sample_rate_hz = int(extractor.sampling_rate)
        self.hop = int(extractor.hop_length)
        self.n_fft = int(extractor.n_fft)
        self.window_samples = int(extractor.n_samples)
        self.n_frames = self.window_samples // self.hop
        self._filters = torch.from_numpy(np.asarray(extractor.mel_filters, dtype=np.float32)).T.contiguous()  # [M, N/2]
        self._hann = torch.hann_window(self.n_fft)

    @staticmethod
    def takes(extractor: Any) -> bool:
        """Whether an extractor is of the kind whose values are known here: no dither, padded on the right by zeros."""
        return (
            type(extractor) is WhisperFeatureExtractor
            and extractor.dither == 0
            and extractor.padding_value == 0
            and extractor.padding_side == "right"
            and extractor.n_samples % extractor.hop_length == 0
            and extractor.n_fft <= extractor.n_samples
        )

    @property
    def digest(self) -> str:
        """Identifies the values that this gives for any clip."""
        numbers = [FORMAT, self.sample_rate_hz, self.hop, self.n_fft, self.window_samples, list(self._filters.shape)]
        return hashlib.sha256(json.dumps(numbers).encode() + self._filters.numpy().tobytes()).hexdigest()

    def valid_frames(self, n_samples: int) -> int:
        """Frames of the window that begin inside a clip: those that the extractor's attention mask shows."""
        return min(-(-n_samples // self.hop), self.n_frames)

    def __call__(self, audio: NDArray[np.float32]) -> torch.Tensor:
        """[M, F] float32 of a mono clip; the window's later frames all equal the last one (see `fill`).

        F is the number of frames that the clip's samples reach, and one more if the window has more.
        """
        audio = audio[: self.window_samples]
        half = self.n_fft // 2
        frames = min(-(-(len(audio) + half) // self.hop) + 1, self.n_frames)
        samples = self._mirrored(audio, frames)
        spectrum = torch.fft.rfft(samples.unfold(0, self.n_fft, self.hop) * self._hann)  # [F, N/2 + 1]
        power = spectrum.real.square() + spectrum.imag.square()
        log = (self._filters @ power.T).clamp_(min=1e-10).log10_()
        return torch.maximum(log, log.max() - 8.0).add_(4.0).div_(4.0)

    def _mirrored(self, audio: NDArray[np.float32], frames: int) -> torch.Tensor:
        """The samples that the first `frames` frames see: half a frame more on either side, mirrored at the ends."""
        half = self.n_fft // 2
        samples = np.zeros((frames - 1) * self.hop + self.n_fft, dtype=np.float32)
        samples[half : half + len(audio)] = audio[: len(samples) - half]
        samples[:half] = samples[half + 1 : 2 * half + 1][::-1]
        beyond = len(samples) - half - self.window_samples
        if beyond > 0:
            end = half + self.window_samples
            samples[end:] = samples[end - 1 - beyond : end - 1][::-1]
        return torch.from_numpy(samples)


def fill(clips: Sequence[torch.Tensor], n_frames: int) -> torch.Tensor:
    """[B, M, n_frames] of clips [M, F]: each one's last frame repeated as far as needed, or its later ones left out."""
    whole = torch.empty(len(clips), clips[0].shape[0], n_frames, dtype=torch.float32)
    for row, clip in zip(whole, clips, strict=True):
        here = min(clip.shape[1], n_frames)
        row[:, :here] = clip[:, :here]
        row[:, here:] = clip[:, -1:]
    return whole


def takes_features(processor: Any) -> bool:
    """Whether a processor asks its extractor for one window a clip and no more, so that it may be given them."""
    return type(processor) is Qwen2AudioProcessor and LogMel.takes(processor.feature_extractor)


def no_outputs(channels: int, n_samples: int) -> ClipFeatures:
    """Zeros in the place of an encoder's outputs; as one value, for `fill` repeats the last frame as far as needed."""
    return ClipFeatures("encoder", np.zeros((channels, 1), dtype=np.float32), n_samples)


class ComputedFeatures:
    """Stands in for a processor's extractor in one call: the features of these clips, computed here or read before.

    Args:
        clips: samples [T] or `ClipFeatures`, in the order of the processor's texts. Outputs of the encoder stand for
            all of them or for none; they go where log-mel frames would, for `pipeline.models.frozen_encoder`.
    """

    def __init__(self, log_mel: LogMel, clips: Sequence[Any]) -> None:
        self.sampling_rate = log_mel.sample_rate_hz
        self._log_mel = log_mel
        self._clips = clips

    def fetch_audio(self, audio: Sequence[Any], **_: Any) -> list[NDArray[np.float32]]:
        """One empty array a clip: the processor only counts them."""
        return [np.empty(0, dtype=np.float32) for _ in audio]

    def __call__(self, audio: Sequence[Any], **_: Any) -> BatchFeature:
        """`input_features` [B, M, T] and `attention_mask` [B, T]; T as for log-mel in either case in the mask."""
        kinds = {clip.kind if isinstance(clip, ClipFeatures) else "audio" for clip in self._clips}
        assert len(audio) == len(self._clips) and ("encoder" not in kinds or len(kinds) == 1)
        values = [
            torch.from_numpy(np.array(clip.values)) if isinstance(clip, ClipFeatures) else self._log_mel(clip)
            for clip in self._clips
        ]
        valid = torch.tensor([self._log_mel.valid_frames(len(clip)) for clip in self._clips])
        n_frames = self._log_mel.n_frames
        if kinds == {"encoder"}:
            # One output for four frames, or a little more. Two at least: the model makes a mask of half as many first.
            n_frames = max(2, int(valid.max()) // 4 + 1)
        mask = (torch.arange(self._log_mel.n_frames) < valid[:, None]).int()
        return BatchFeature({"input_features": fill(values, n_frames), "attention_mask": mask})

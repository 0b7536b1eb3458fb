"""Whisper's log-mel spectrogram, frame by frame as far as a clip reaches and no further.

`WhisperFeatureExtractor` of `transformers` pads every clip to its window (30 s) and transforms the silence as well.
Here each frame that lies wholly in that silence is known without being computed: they are all equal. Shapes: `R` rows,
one for each window of each clip, `M` mel bins, `T` frames of the window, `F` frames of a clip, `N` points of the
transform.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from pipeline.types import ClipFeatures

FORMAT = 1  # of the values; part of `LogMel.digest`

LongClips = Literal["cut", "windows", "whole"]


class LogMel:
    """Computes what a `WhisperFeatureExtractor` computes, with its window, filters and hop; safe in many threads.

    The definition (Radford et al. 2022, and `transformers`): power of a short-time Fourier transform with a Hann
    window and centred frames, mirrored at both ends of the padded window; times the mel filters; log10, at least
    1e-10 before it; at least the clip's maximum - 8 after it; (x + 4) / 4.

    Args:
        extractor: one that `LogMel.takes`.
        long_clips: a clip beyond the window is cut (`cut`), or goes on in further windows, each transformed by itself
            (`windows`) or all in one (`whole`: one maximum, and frames that see over the seams).
        max_windows: where a clip is cut at last; says nothing for `cut`.
    """

    def __init__(self, extractor: Any, long_clips: LongClips = "cut", max_windows: int | None = None) -> None:
        assert LogMel.takes(extractor)
        self._long_clips = long_clips
        self._max_windows = 1 if long_clips == "cut" else max_windows
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
        numbers: list[Any] = [FORMAT, self.sample_rate_hz, self.hop, self.n_fft, self.window_samples]
        numbers.append(list(self._filters.shape))
        if self._long_clips != "cut":
            numbers += [self._long_clips, self._max_windows]
        return hashlib.sha256(json.dumps(numbers).encode() + self._filters.numpy().tobytes()).hexdigest()

    def valid_frames(self, n_samples: int) -> list[int]:
        """Frames that begin inside a clip, in each of its windows: those that the extractor's attention mask shows."""
        n_samples = self._kept(n_samples)
        starts = range(0, max(n_samples, 1), self.window_samples)
        return [min(-(-(n_samples - start) // self.hop), self.n_frames) for start in starts]

    def __call__(self, audio: NDArray[np.float32]) -> torch.Tensor:
        """[M, F] float32 of a mono clip; its last window's later frames all equal the last one (see `fill`).

        F is the number of frames that the clip's samples reach, and one more if the window has more.
        """
        audio = audio[: self._kept(len(audio))]
        n_windows = len(self.valid_frames(len(audio)))
        if self._long_clips == "whole":
            return self._transform(audio, n_windows * self.window_samples)
        pieces = [audio[k * self.window_samples :][: self.window_samples] for k in range(n_windows)]
        return torch.cat([self._transform(piece, self.window_samples) for piece in pieces], dim=1)

    def _kept(self, n_samples: int) -> int:
        return n_samples if self._max_windows is None else min(n_samples, self._max_windows * self.window_samples)

    def _transform(self, audio: NDArray[np.float32], padded_samples: int) -> torch.Tensor:
        half = self.n_fft // 2
        frames = min(-(-(len(audio) + half) // self.hop) + 1, padded_samples // self.hop)
        samples = self._mirrored(audio, frames, padded_samples)
        spectrum = torch.fft.rfft(samples.unfold(0, self.n_fft, self.hop) * self._hann)  # [F, N/2 + 1]
        power = spectrum.real.square() + spectrum.imag.square()
        log = (self._filters @ power.T).clamp_(min=1e-10).log10_()
        return torch.maximum(log, log.max() - 8.0).add_(4.0).div_(4.0)

    def _mirrored(self, audio: NDArray[np.float32], frames: int, padded_samples: int) -> torch.Tensor:
        """The samples that the first `frames` frames see: half a frame more on either side, mirrored at the ends."""
        half = self.n_fft // 2
        samples = np.zeros((frames - 1) * self.hop + self.n_fft, dtype=np.float32)
        samples[half : half + len(audio)] = audio[: len(samples) - half]
        samples[:half] = samples[half + 1 : 2 * half + 1][::-1]
        beyond = len(samples) - half - padded_samples
        if beyond > 0:
            end = half + padded_samples
            samples[end:] = samples[end - 1 - beyond : end - 1][::-1]
        return torch.from_numpy(samples)


def fill(rows: Sequence[torch.Tensor], n_frames: int) -> torch.Tensor:
    """[R, M, n_frames] of rows [M, F]: each one's last frame repeated as far as needed, or its later ones left out."""
    whole = torch.empty(len(rows), rows[0].shape[0], n_frames, dtype=torch.float32)
    for row, frames in zip(whole, rows, strict=True):
        here = min(frames.shape[1], n_frames)
        row[:, :here] = frames[:, :here]
        row[:, here:] = frames[:, -1:]
    return whole


def silent_outputs(channels: int, n_samples: int) -> ClipFeatures:
    """Zeros in the place of an encoder's outputs; as one value, for `fill` repeats the last frame as far as needed."""
    return ClipFeatures("encoder", np.zeros((channels, 1), dtype=np.float32), n_samples)

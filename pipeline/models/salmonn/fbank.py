"""The filterbank that BEATs takes: Kaldi's, as `torchaudio.compliance.kaldi.fbank` computes it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.audio_utils import mel_filter_bank, window_function

SAMPLE_RATE_HZ = 16_000
FRAME = 400  # samples: 25 ms
HOP = 160  # 10 ms
N_FFT = 512
PREEMPHASIS = 0.97
# Published with the model: mean and spread of the filterbank over AudioSet, of samples scaled to 16-bit integers.
SCALE = 2.0**15
MEAN = 15.41663
STD = 6.55582


def n_frames(n_samples: int) -> int:
    """Frames that lie wholly inside a clip."""
    return 0 if n_samples < FRAME else 1 + (n_samples - FRAME) // HOP


def kaldi_fbank(audio: NDArray[np.float32], mel_bins: int) -> torch.Tensor:
    """[frames, mel_bins] float32: normalised log filterbank of a mono clip at 16 kHz.

    Each frame loses its mean, is sharpened by `x[t] - 0.97 x[t-1]` and windowed (Povey's); triangles that are equally
    wide in mels, from 20 Hz to 8 kHz, sum its power spectrum.
    """
    frames = torch.from_numpy(audio.astype(np.float32) * np.float32(SCALE)).unfold(0, FRAME, HOP)
    frames = frames - frames.mean(1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    window, filters = _window_and_filters(mel_bins)
    spectrum = torch.fft.rfft((frames - PREEMPHASIS * before) * window, n=N_FFT)
    power = spectrum.real.square() + spectrum.imag.square()
    log = (power @ filters).clamp_(min=torch.finfo(torch.float32).eps).log_()
    return (log - MEAN) / (2 * STD)


@lru_cache(maxsize=4)
def _window_and_filters(mel_bins: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[FRAME] and [N_FFT / 2 + 1, mel_bins]."""
    window = window_function(FRAME, "povey", periodic=False)
    filters = mel_filter_bank(
        num_frequency_bins=N_FFT // 2 + 1,
        num_mel_filters=mel_bins,
        min_frequency=20.0,
        max_frequency=SAMPLE_RATE_HZ / 2,
        sampling_rate=SAMPLE_RATE_HZ,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return torch.from_numpy(window.astype(np.float32)), torch.from_numpy(filters.astype(np.float32))

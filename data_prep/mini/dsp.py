"""Signal tools of the renderers. Signals are float64 arrays [T] at `RATE_HZ`, roughly within -1..1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

RATE_HZ = 16_000
Signal = NDArray[np.float64]
Curve = Sequence[tuple[float, float]]


def n_samples(duration_s: float) -> int:
    return max(1, round(duration_s * RATE_HZ))


def times(n: int) -> Signal:
    """Time of each of `n` samples, in seconds."""
    return np.arange(n) / RATE_HZ


def db(level_db: float) -> float:
    """Amplitude factor of a level in decibels."""
    return float(10 ** (level_db / 20))


def rms(signal: Signal) -> float:
    return float(np.sqrt(np.mean(signal**2))) if len(signal) else 0.0


def to_rms(signal: Signal, level_db: float) -> Signal:
    """`signal` scaled to a root mean square of `level_db` below full scale; silence stays silence."""
    level = rms(signal)
    return signal * (db(level_db) / level) if level > 0 else signal


def to_peak(signal: Signal, peak: float = 1.0) -> Signal:
    top = float(np.abs(signal).max(initial=0.0))
    return signal * (peak / top) if top > 0 else signal


def shape(signal: Signal, curve: Curve) -> Signal:
    """Zero-phase filter whose gain in dB goes through the points (Hz, dB), straight over the logarithm of Hz."""
    n_fft = next_fast_len(len(signal) + 256, real=True)
    hz = np.maximum(rfftfreq(n_fft, 1 / RATE_HZ), 10.0)
    gain_db = np.interp(np.log(hz), [np.log(point[0]) for point in curve], [point[1] for point in curve])
    return irfft(rfft(signal, n_fft) * 10 ** (gain_db / 20), n_fft)[: len(signal)]


def band(signal: Signal, low_hz: float, high_hz: float, slope_db: float = 24.0) -> Signal:
    """Band pass that falls by `slope_db` in the first octave outside, and on to twice that in the second."""
    return shape(
        signal,
        [
            (low_hz / 4, -2 * slope_db),
            (low_hz / 2, -slope_db),
            (low_hz, 0.0),
            (high_hz, 0.0),
            (2 * high_hz, -slope_db),
            (4 * high_hz, -2 * slope_db),
        ],
    )


def noise(rng: np.random.Generator, n: int) -> Signal:
    return rng.standard_normal(n)


def slow_curve(rng: np.random.Generator, n: int, rate_hz: float) -> Signal:
    """A smooth random curve in 0..1 that turns about `rate_hz` times a second: swells, gusts, wandering pitch."""
    n_points = max(4, int(n / RATE_HZ * rate_hz * 2) + 3)
    points = rng.random(n_points)
    return np.interp(np.linspace(0, n_points - 1, n), np.arange(n_points), points)


def decay(n: int, time_s: float) -> Signal:
    """Exponential decay that has fallen by 60 dB after `time_s`."""
    return np.exp(-6.9 * times(n) / time_s)


def attack_release(n: int, attack_s: float, release_s: float) -> Signal:
    """1 in the middle, raised-cosine ramps at both ends; ramps shrink to fit short signals."""
    envelope = np.ones(n)
    n_attack = min(n_samples(attack_s), n // 2)
    n_release = min(n_samples(release_s), n - n_attack)
    if n_attack > 0:
        envelope[:n_attack] = 0.5 - 0.5 * np.cos(np.pi * np.arange(n_attack) / n_attack)
    if n_release > 0:
        envelope[-n_release:] *= 0.5 + 0.5 * np.cos(np.pi * np.arange(1, n_release + 1) / n_release)
    return envelope


def add_at(target: Signal, signal: Signal, start_s: float, gain: float = 1.0) -> None:
    """Mix `signal` into `target` from `start_s`; what lies outside is cut off."""
    start = round(start_s * RATE_HZ)
    skip = max(0, -start)
    start = max(0, start)
    n = min(len(signal) - skip, len(target) - start)
    if n > 0:
        target[start : start + n] += gain * signal[skip : skip + n]


def harmonics(hz: Signal, amplitudes: Sequence[float]) -> Signal:
    """Sum of harmonics of an instantaneous frequency [T]; those that would alias are left out."""
    phase = 2 * np.pi * np.cumsum(hz) / RATE_HZ
    top_hz = float(hz.max(initial=1.0))
    parts = [
        amplitude * np.sin(number * phase)
        for number, amplitude in enumerate(amplitudes, start=1)
        if number * top_hz < 0.47 * RATE_HZ
    ]
    return np.sum(parts, axis=0) if parts else np.zeros(len(hz))


def convolve(signal: Signal, response: Signal) -> Signal:
    """Linear convolution cut to the length of `signal`."""
    n_fft = next_fast_len(len(signal) + len(response), real=True)
    return irfft(rfft(signal, n_fft) * rfft(response, n_fft), n_fft)[: len(signal)]


def reverberate(rng: np.random.Generator, signal: Signal, rt60_s: float, wet: float) -> Signal:
    """A room: exponentially decaying noise, darker towards its end, after the direct sound."""
    n = n_samples(min(rt60_s, 1.5))
    tail = noise(rng, n) * decay(n, rt60_s)
    tail[: n_samples(0.004)] = 0.0
    tail = shape(tail, [(100, -6), (400, 0), (2500, -2), (7000, -12)])
    return signal + wet * convolve(signal, tail / np.sqrt(np.sum(tail**2)))

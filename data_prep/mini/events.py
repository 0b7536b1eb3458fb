"""Sound events: one function an event class, each giving one occurrence at a peak of about 1.

A renderer takes (stream, number of samples); discrete events (a bark, a horn) are as long as they are and ignore the
number when it is longer, continuous ones (rain, engine) fill it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_prep.mini.dsp import (
    RATE_HZ,
    Signal,
    add_at,
    attack_release,
    band,
    decay,
    harmonics,
    n_samples,
    noise,
    shape,
    slow_curve,
    times,
    to_peak,
)
from data_prep.mini.seeds import pick

Rng = np.random.Generator


def _grains(rng: Rng, n: int, rate_hz: float, grain: Callable[[], Signal], spread: float = 0.6) -> Signal:
    """Copies of `grain()` at random times, `rate_hz` a second, with random gains."""
    track = np.zeros(n)
    for _ in range(max(1, rng.poisson(rate_hz * n / RATE_HZ))):
        add_at(track, grain(), float(rng.random()) * n / RATE_HZ, float(rng.uniform(1 - spread, 1)))
    return track


def _steps(rng: Rng, n: int, period_s: float, stroke: Callable[[], Signal], jitter: float = 0.05) -> Signal:
    """`stroke()` in a regular beat with a little jitter."""
    track = np.zeros(n)
    at = float(rng.random()) * 0.3 * period_s
    while at < n / RATE_HZ:
        add_at(track, stroke(), at, float(rng.uniform(0.7, 1)))
        at += period_s * (1 + jitter * float(rng.standard_normal()))
    return track


def _click(rng: Rng, length_s: float, low_hz: float, high_hz: float) -> Signal:
    n = n_samples(length_s)
    return to_peak(band(noise(rng, n), low_hz, high_hz, slope_db=12) * decay(n, length_s))


def dog(rng: Rng, n: int) -> Signal:
    size = float(rng.uniform(0.7, 1.5))
    length = n_samples(0.16 / size**0.3)
    arch = np.sin(np.pi * np.linspace(0.08, 1, length) ** 0.7)
    hz = 330 * size * (0.75 + 0.6 * arch)
    voice = harmonics(hz, [1, 0.9, 0.8, 0.6, 0.5, 0.35, 0.2, 0.1]) + 0.8 * band(noise(rng, length), 500, 2500)
    return to_peak(shape(voice, [(300, -3), (900 * size, 6), (3000, -6), (6000, -20)]) * arch**1.5)


def cat(rng: Rng, n: int) -> Signal:
    length = n_samples(float(rng.uniform(0.5, 0.9)))
    arch = np.sin(np.pi * np.linspace(0.02, 1, length) ** 0.6)
    hz = float(rng.uniform(480, 700)) * (0.8 + 0.4 * arch)
    voice = harmonics(hz, [1, 0.7, 0.9, 0.6, 0.3, 0.2])
    return to_peak(shape(voice, [(400, -6), (1500, 4), (2600, 2), (5000, -14)]) * arch)


def bird(rng: Rng, n: int) -> Signal:
    """A burst of three to six chirps within 0.7 s; `n` is not used."""
    base_hz, depth = float(rng.uniform(2300, 4800)), float(rng.uniform(200, 1400))
    up, rate_hz = pick(rng, (-1, 1)), float(rng.uniform(9, 28))

    def chirp() -> Signal:
        length = n_samples(float(rng.uniform(0.05, 0.14)))
        t = np.linspace(0, 1, length)
        hz = base_hz + up * depth * (t - 0.5) + 0.15 * depth * np.sin(2 * np.pi * rate_hz * t)
        return harmonics(hz, [1, 0.12]) * np.sin(np.pi * t)

    track = np.zeros(n_samples(0.7))
    for number in range(int(rng.integers(3, 7))):
        add_at(track, chirp(), number * 0.11 + 0.02 * float(rng.random()))
    return to_peak(track)


def rooster(rng: Rng, n: int) -> Signal:
    length = n_samples(1.0)
    t = np.linspace(0, 1, length)
    hz = 620 * np.interp(t, [0, 0.15, 0.3, 0.7, 1], [0.8, 1.1, 1.0, 1.35, 0.85]) * float(rng.uniform(0.9, 1.15))
    gate = np.interp(t, [0, 0.03, 0.14, 0.18, 0.28, 0.33, 0.4, 0.9, 1], [0, 1, 1, 0.1, 1, 0.1, 1, 1, 0])
    return to_peak(shape(harmonics(hz, [0.6, 1, 0.9, 0.7, 0.4, 0.3]), [(500, -6), (1600, 3), (5000, -10)]) * gate)


def insects(rng: Rng, n: int) -> Signal:
    carrier_hz = float(rng.uniform(3900, 5600))
    pulses = np.maximum(0, np.sin(2 * np.pi * float(rng.uniform(14, 30)) * times(n))) ** 2
    phrases = 0.25 + 0.75 * (np.sin(2 * np.pi * float(rng.uniform(1.2, 2.4)) * times(n)) > -0.2)
    return to_peak(band(noise(rng, n), carrier_hz, carrier_hz * 1.06) * pulses * phrases)


def rain(rng: Rng, n: int) -> Signal:
    hiss = shape(noise(rng, n), [(200, -14), (1000, -6), (3500, 0), (7500, -3)])
    drops = _grains(rng, n, 45, lambda: _click(rng, 0.006, 1500, 5000))
    return to_peak(hiss / 4 + 0.5 * drops)


def thunder(rng: Rng, n: int) -> Signal:
    length = n_samples(float(rng.uniform(1.4, 2.4)))
    swell = slow_curve(rng, length, 6) * decay(length, 2.2) + 0.6 * decay(length, 0.5)
    rumble = shape(noise(rng, length), [(25, 0), (90, 2), (250, -14), (1000, -34), (5000, -60)])
    crack = shape(noise(rng, length), [(100, 0), (1200, -6), (5000, -16)]) * decay(length, 0.35)
    return to_peak(to_peak(rumble * swell) + float(rng.uniform(0.0, 0.5)) * to_peak(crack))


def wind(rng: Rng, n: int) -> Signal:
    low = shape(noise(rng, n), [(60, 0), (250, -2), (700, -18), (3000, -44)])
    centre_hz = float(rng.uniform(380, 800))
    whistle = band(noise(rng, n), centre_hz, centre_hz * 1.12)
    return to_peak((to_peak(low) + 0.8 * to_peak(whistle)) * (0.15 + slow_curve(rng, n, 0.9)) ** 1.5)


def water(rng: Rng, n: int) -> Signal:
    def bubble() -> Signal:
        length = n_samples(float(rng.uniform(0.02, 0.07)))
        hz = float(rng.uniform(450, 1700)) * (1 + 0.35 * np.linspace(0, 1, length))
        return np.sin(2 * np.pi * np.cumsum(hz) / RATE_HZ) * decay(length, length / RATE_HZ)

    flow = shape(noise(rng, n), [(200, -8), (700, 0), (2500, -10), (7000, -22)])
    return to_peak(_grains(rng, n, 55, bubble) + 0.12 * flow)


def waves(rng: Rng, n: int) -> Signal:
    swell = 0.12 + np.sin(np.pi * (times(n) / float(rng.uniform(2.2, 3.4)) + float(rng.random()))) ** 4
    surf = shape(noise(rng, n), [(80, -2), (500, 0), (2500, -8), (7000, -14)])
    return to_peak(surf * swell)


def fire(rng: Rng, n: int) -> Signal:
    crackle = _grains(rng, n, 22, lambda: _click(rng, float(rng.uniform(0.002, 0.012)), 1200, 5500), spread=0.9)
    rumble = shape(noise(rng, n), [(50, 0), (200, -4), (900, -26), (4000, -50)])
    return to_peak(crackle + 0.25 * to_peak(rumble) * (0.5 + slow_curve(rng, n, 2)))


def engine(rng: Rng, n: int) -> Signal:
    hz = float(rng.uniform(28, 60)) * (1 + 0.12 * slow_curve(rng, n, 0.6))
    pulses = harmonics(hz, [1 / k**0.7 for k in range(1, 28)])
    hum = shape(pulses, [(40, -2), (120, 2), (600, -6), (2500, -22)])
    exhaust = shape(noise(rng, n), [(60, 0), (400, -10), (3000, -28)]) * (1 + 0.5 * np.sign(pulses))
    return to_peak(to_peak(hum) + 0.3 * to_peak(exhaust))


def siren(rng: Rng, n: int) -> Signal:
    rate_hz, low, high = float(rng.uniform(0.35, 2.5)), float(rng.uniform(520, 720)), float(rng.uniform(1100, 1500))
    sweep = 0.5 - 0.5 * np.cos(2 * np.pi * (rate_hz * times(n) + float(rng.random())))
    return to_peak(harmonics(low + (high - low) * sweep, [1, 0.35, 0.25, 0.1]))


def car_horn(rng: Rng, n: int) -> Signal:
    length = n_samples(float(rng.uniform(0.35, 0.9)))
    hz = np.full(length, float(rng.uniform(330, 450)))
    voice = harmonics(hz, [1, 0.8, 0.9, 0.6, 0.5, 0.3]) + harmonics(hz * 1.26, [1, 0.8, 0.8, 0.5, 0.4])
    return to_peak(voice * attack_release(length, 0.015, 0.04))


def footsteps(rng: Rng, n: int) -> Signal:
    """`n` samples of steps in a walking beat, on soft to hard ground."""
    hard = float(rng.uniform(0.1, 0.6))

    def step() -> Signal:
        thump = _click(rng, 0.07, 80, 260)
        add_at(thump, _click(rng, 0.02, 900, 3000), 0.01, hard)
        return thump

    return to_peak(_steps(rng, n, float(rng.uniform(0.45, 0.62)), step))


def knock(rng: Rng, n: int) -> Signal:
    tone_hz = float(rng.uniform(160, 320))
    length = n_samples(0.09)
    track = np.zeros(n_samples(0.8))
    for number in range(int(rng.integers(3, 5))):
        stroke = np.sin(2 * np.pi * tone_hz * times(length)) * decay(length, 0.08)
        add_at(track, stroke + 0.4 * _click(rng, 0.09, 300, 1500), 0.17 * number)
    return to_peak(track)


def door(rng: Rng, n: int) -> Signal:
    length = n_samples(0.6)
    slam = shape(noise(rng, length), [(40, 4), (140, 2), (500, -10), (3000, -26)]) * decay(length, 0.4)
    rattle = _grains(rng, length, 14, lambda: _click(rng, 0.02, 700, 2500)) * decay(length, 0.5)
    return to_peak(to_peak(slam) + 0.35 * rattle)


def bell(rng: Rng, n: int) -> Signal:
    """One stroke with inharmonic partials, 1.6 s; `n` is not used."""
    length = n_samples(1.6)
    base_hz = float(rng.uniform(380, 950))
    partials = ((0.5, 0.5), (1.0, 1.0), (1.19, 0.6), (1.5, 0.4), (2.0, 0.7), (2.67, 0.35), (3.9, 0.25))
    tones = [
        gain * np.sin(2 * np.pi * base_hz * ratio * times(length)) * decay(length, 1.8 / ratio**0.6)
        for ratio, gain in partials
        if base_hz * ratio < 7500
    ]
    return to_peak(np.sum(tones, axis=0))


def alarm(rng: Rng, n: int) -> Signal:
    hz, period_s = float(rng.uniform(1900, 3100)), float(rng.uniform(0.16, 0.34))
    gate = (times(n) / period_s) % 1 < 0.5
    return to_peak(np.tanh(3 * np.sin(2 * np.pi * hz * times(n))) * gate)


def clock(rng: Rng, n: int) -> Signal:
    """`n` samples of ticking, two or four a second."""
    tone_hz = float(rng.uniform(1800, 3200))

    def tick() -> Signal:
        length = n_samples(0.03)
        beat = np.sin(2 * np.pi * tone_hz * times(length)) * decay(length, 0.025)
        add_at(beat, _click(rng, 0.008, 2000, 6000), 0.0)
        return beat

    return to_peak(_steps(rng, n, pick(rng, (0.25, 0.5, 0.5)), tick, jitter=0.003))


def keyboard(rng: Rng, n: int) -> Signal:
    return to_peak(_grains(rng, n, float(rng.uniform(6, 10)), lambda: _click(rng, 0.018, 1600, 4500)))


def applause(rng: Rng, n: int) -> Signal:
    claps = _grains(rng, n, 130, lambda: _click(rng, 0.016, 700, 2400), spread=0.8)
    return to_peak(claps * (0.6 + 0.4 * slow_curve(rng, n, 1)))


def vacuum(rng: Rng, n: int) -> Signal:
    hum = harmonics(np.full(n, float(rng.uniform(100, 125))), [1, 0.8, 0.5, 0.4, 0.3, 0.2])
    whine = harmonics(np.full(n, float(rng.uniform(1300, 2200))), [1, 0.3])
    air = shape(noise(rng, n), [(150, -6), (900, 0), (4000, -5), (7500, -12)])
    return to_peak(0.5 * to_peak(hum) + 0.35 * whine + to_peak(air))


def train(rng: Rng, n: int) -> Signal:
    """`n` samples of rumble with the double clack of rail joints."""
    rumble = shape(noise(rng, n), [(30, 0), (150, 0), (500, -16), (3000, -34)])
    period_s = float(rng.uniform(0.55, 0.85))

    def clack() -> Signal:
        pair = np.zeros(n_samples(0.25))
        for at in (0.0, 0.14):
            add_at(pair, _click(rng, 0.07, 200, 1400), at)
        return pair

    return to_peak(0.7 * to_peak(rumble) + _steps(rng, n, period_s, clack, jitter=0.01))


def hammer(rng: Rng, n: int) -> Signal:
    """`n` samples of ringing blows."""
    ring_hz = float(rng.uniform(1400, 2600))

    def blow() -> Signal:
        length = n_samples(0.22)
        ring = sum(np.sin(2 * np.pi * ring_hz * ratio * times(length)) for ratio in (1.0, 1.47, 2.3))
        stroke = 0.25 * ring * decay(length, 0.2)
        add_at(stroke, _click(rng, 0.05, 400, 3000), 0.0)
        return stroke

    return to_peak(_steps(rng, n, float(rng.uniform(0.35, 0.7)), blow))


def glass(rng: Rng, n: int) -> Signal:
    """A pane breaks: a burst and falling shards, 0.8 s; `n` is not used."""
    length = n_samples(0.8)

    def shard() -> Signal:
        piece = n_samples(0.12)
        return np.sin(2 * np.pi * float(rng.uniform(2500, 7000)) * times(piece)) * decay(piece, 0.1)

    burst = band(noise(rng, length), 2000, 7000) * decay(length, 0.18)
    return to_peak(to_peak(burst) + 0.5 * _grains(rng, length, 40, shard) * decay(length, 0.8))


def baby(rng: Rng, n: int) -> Signal:
    """Two cries within 1.5 s; `n` is not used."""
    track = np.zeros(n_samples(1.5))
    base_hz = float(rng.uniform(380, 520))
    for number in range(2):
        length = n_samples(0.6)
        arch = np.sin(np.pi * np.linspace(0.02, 1, length) ** 0.8)
        hz = base_hz * (0.85 + 0.3 * arch) * (1 + 0.01 * slow_curve(rng, length, 30))
        voice = shape(harmonics(hz, [1, 1, 0.9, 0.8, 0.5, 0.4, 0.3]), [(400, 0), (1100, 5), (3200, 3), (6000, -14)])
        add_at(track, voice * arch, 0.72 * number)
    return to_peak(track)


CONTINUOUS: dict[str, Callable[[Rng, int], Signal]] = {
    "insects": insects, "rain": rain, "wind": wind, "water": water, "waves": waves, "fire": fire, "engine": engine,
    "siren": siren, "footsteps": footsteps, "clock": clock, "keyboard": keyboard, "applause": applause,
    "vacuum": vacuum, "train": train, "hammer": hammer, "alarm": alarm,
}  # fmt: skip
DISCRETE: dict[str, Callable[[Rng, int], Signal]] = {
    "dog": dog, "cat": cat, "bird": bird, "rooster": rooster, "thunder": thunder, "car_horn": car_horn,
    "knock": knock, "door": door, "bell": bell, "glass": glass, "baby": baby,
}  # fmt: skip
# Rendered by the speech and music rooms, see `scenes`.
BORROWED = ("man", "woman", "child", "crowd", "music")
EVENT_NAMES: tuple[str, ...] = (*CONTINUOUS, *DISCRETE, *BORROWED)

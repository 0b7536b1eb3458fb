"""Instrument timbres: wavetables with formants, frequency modulation, plucked strings, drums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from data_prep.mini.dsp import RATE_HZ, Signal, add_at, attack_release, band, decay, n_samples, noise, times

_TABLE = 1024


@dataclass(frozen=True)
class Timbre:
    """One instrument.

    Args:
        low, high: playable range in MIDI notes.
        rolloff: amplitude of harmonic k is k ** -rolloff.
        even: factor on even harmonics (a clarinet has few).
        formants: resonances (Hz, gain), half an octave wide.
        attack_s: rise time; `ring_s`: time to fall by 60 dB, 0 for a held tone.
        vibrato: depth as a share of the frequency; `breath`: level of the noise in the tone.
        method: table, pluck (Karplus-Strong) or fm with `fm` = (ratio, index).
        program: General MIDI program counted from 1, as MusicNet writes it; 0 when MusicNet does not know it.
    """

    low: int
    high: int
    rolloff: float = 1.2
    even: float = 1.0
    formants: tuple[tuple[float, float], ...] = ()
    attack_s: float = 0.01
    ring_s: float = 0.0
    vibrato: float = 0.0
    breath: float = 0.0
    method: str = "table"
    fm: tuple[float, float] = (1.0, 2.0)
    program: int = 0


TIMBRES: dict[str, Timbre] = {
    "piano": Timbre(36, 88, rolloff=1.5, attack_s=0.004, ring_s=1.8, program=1),
    "harpsichord": Timbre(41, 84, attack_s=0.001, ring_s=0.9, method="pluck", program=7),
    "violin": Timbre(
        55, 93, rolloff=0.9, formants=((500, 1.5), (2800, 4.0)), attack_s=0.06, vibrato=0.012, breath=0.02, program=41
    ),
    "viola": Timbre(
        48, 84, rolloff=1.1, formants=((350, 2.0), (1500, 3.0)), attack_s=0.07, vibrato=0.009, breath=0.02, program=42
    ),
    "cello": Timbre(
        36, 72, rolloff=1.0, formants=((250, 3.0), (900, 2.0)), attack_s=0.08, vibrato=0.008, breath=0.02, program=43
    ),
    "double bass": Timbre(28, 55, rolloff=1.4, formants=((120, 3.0),), attack_s=0.09, breath=0.03, program=44),
    "horn": Timbre(41, 77, rolloff=1.6, formants=((450, 4.0),), attack_s=0.06, program=61),
    "oboe": Timbre(58, 91, rolloff=0.5, formants=((1100, 6.0), (2900, 3.0)), attack_s=0.03, vibrato=0.006, program=69),
    "bassoon": Timbre(34, 72, rolloff=0.8, formants=((480, 6.0), (1200, 2.0)), attack_s=0.04, program=71),
    "clarinet": Timbre(50, 91, rolloff=0.9, even=0.06, attack_s=0.03, program=72),
    "flute": Timbre(60, 96, rolloff=2.4, attack_s=0.05, vibrato=0.008, breath=0.10, program=74),
    "acoustic guitar": Timbre(40, 79, attack_s=0.001, ring_s=1.4, method="pluck"),
    "electric guitar": Timbre(40, 84, rolloff=0.5, formants=((900, 3.0),), attack_s=0.008, ring_s=3.0),
    "bass guitar": Timbre(28, 52, rolloff=1.8, attack_s=0.006, ring_s=1.2),
    "synthesizer": Timbre(40, 90, rolloff=0.8, even=0.9, attack_s=0.006),
    "synth pad": Timbre(45, 84, rolloff=1.7, attack_s=0.25, vibrato=0.006),
    "organ": Timbre(36, 88, rolloff=1.0, even=1.4, attack_s=0.012),
    "trumpet": Timbre(54, 86, rolloff=0.6, formants=((1300, 3.0),), attack_s=0.03, vibrato=0.004),
    "saxophone": Timbre(46, 82, rolloff=0.7, formants=((700, 4.0), (1800, 2.0)), attack_s=0.03, breath=0.05),
    "vibraphone": Timbre(53, 89, attack_s=0.003, ring_s=1.6, method="fm", fm=(4.0, 1.2)),
    "electric piano": Timbre(40, 84, attack_s=0.004, ring_s=1.4, method="fm", fm=(1.0, 1.6)),
}


def midi_hz(midi: float) -> float:
    return float(440.0 * 2 ** ((midi - 69) / 12))


def play(rng: np.random.Generator, name: str, midi: float, duration_s: float, velocity: float) -> Signal:
    """One note of instrument `name`, `duration_s` long plus its release; `velocity` in 0..1 also brightens it."""
    timbre = TIMBRES[name]
    hz = midi_hz(midi) * (1 + 0.002 * rng.standard_normal())
    n = n_samples(duration_s + 0.08)
    tone = _METHODS[timbre.method](rng, timbre, hz, n, velocity)
    if timbre.breath:
        tone = tone + timbre.breath * band(noise(rng, n), min(hz, 2000.0), 5000.0, slope_db=12)
    envelope = attack_release(n, timbre.attack_s, 0.08)
    if timbre.ring_s:
        envelope = envelope * decay(n, timbre.ring_s * (60 / max(midi, 30)) ** 0.5)
    return velocity * envelope * tone


def _table(timbre: Timbre, hz: float, extra_rolloff: float) -> Signal:
    number = np.arange(1, max(2, min(48, int(0.45 * RATE_HZ / hz))))
    amplitude = number ** -(timbre.rolloff + extra_rolloff)
    amplitude = np.where(number % 2 == 0, amplitude * timbre.even, amplitude)
    for centre_hz, gain in timbre.formants:
        octaves = np.log2(number * hz / centre_hz)
        amplitude = amplitude * (1 + (gain - 1) * np.exp(-0.5 * (octaves / 0.5) ** 2))
    spectrum = np.zeros(_TABLE // 2 + 1, dtype=complex)
    spectrum[number] = amplitude * np.exp(2j * np.pi * (number**2 % 7) / 7)
    table = np.fft.irfft(spectrum)
    return table / np.sqrt(np.mean(table**2)) * 0.3


def _wavetable(rng: np.random.Generator, timbre: Timbre, hz: float, n: int, velocity: float) -> Signal:
    """Two wavetables, bright and dark; loud notes and the start of ringing ones are the bright one."""
    t = times(n)
    wobble = 1 + timbre.vibrato * np.sin(2 * np.pi * (5.5 * t + rng.random())) * np.minimum(t / 0.2, 1)
    index = (np.cumsum(hz * wobble) * (_TABLE / RATE_HZ)).astype(np.int64) % _TABLE
    brightness = (0.35 + 0.65 * velocity) * (decay(n, 0.8 * timbre.ring_s) if timbre.ring_s else np.ones(n))
    bright, dark = _table(timbre, hz, 0.0), _table(timbre, hz, 0.9)
    return brightness * bright[index] + (1 - brightness) * dark[index]


def _pluck(rng: np.random.Generator, timbre: Timbre, hz: float, n: int, velocity: float) -> Signal:
    """Karplus-Strong: a burst of noise in a delay line of one period, low-passed at each turn."""
    period = RATE_HZ / hz - 0.5
    whole = int(period)
    burst = np.zeros(n)
    n_burst = min(n, whole + 1)
    burst[:n_burst] = rng.uniform(-1, 1, n_burst) * (0.5 + 0.5 * velocity)
    share = period - whole
    loop = np.zeros(whole + 3)
    loop[0] = 1.0
    # Half of each of two neighbours is the damping, `share` between them the tuning.
    for offset, weight in ((0, 0.5 * (1 - share)), (1, 0.5), (2, 0.5 * share)):
        loop[whole + offset] -= 0.996 * weight
    return 0.6 * lfilter([1.0], loop, burst)


def _fm(rng: np.random.Generator, timbre: Timbre, hz: float, n: int, velocity: float) -> Signal:
    ratio, index = timbre.fm
    phase = 2 * np.pi * hz * times(n)
    modulation = index * (0.4 + 0.6 * velocity) * decay(n, 0.5) if ratio * hz < 0.4 * RATE_HZ else 0.0
    return 0.4 * np.sin(phase + modulation * np.sin(ratio * phase))


_METHODS: dict[str, Callable[[np.random.Generator, Timbre, float, int, float], Signal]] = {
    "table": _wavetable,
    "pluck": _pluck,
    "fm": _fm,
}


def drum(rng: np.random.Generator, kind: str) -> Signal:
    """One stroke of `kick`, `snare` or `hat`."""
    if kind == "kick":
        n = n_samples(0.22)
        sweep_hz = 45 + 110 * decay(n, 0.12)
        return 0.9 * np.sin(2 * np.pi * np.cumsum(sweep_hz) / RATE_HZ) * decay(n, 0.25)
    if kind == "snare":
        n = n_samples(0.18)
        body = 0.4 * np.sin(2 * np.pi * 185 * times(n)) * decay(n, 0.12)
        return body + 0.35 * band(noise(rng, n), 1200, 7000, slope_db=12) * decay(n, 0.2)
    n = n_samples(0.06)
    return 0.25 * band(noise(rng, n), 5500, 7900, slope_db=18) * decay(n, 0.07)


def drum_track(rng: np.random.Generator, n: int, beat_s: float, pattern: str) -> Signal:
    """Drums over `n` samples: `rock` (kick 1 3, snare 2 4, hats on eighths), `four` (kick on each beat), `half`."""
    track = np.zeros(n)
    hits = {"rock": ("kick", "snare"), "four": ("kick", "kick"), "half": ("kick", "hat")}[pattern]
    for beat in range(int(n / RATE_HZ / beat_s) + 1):
        add_at(track, drum(rng, hits[beat % 2]), beat * beat_s)
        if pattern == "four" and beat % 2:
            add_at(track, drum(rng, "snare"), beat * beat_s, 0.7)
        for eighth in (0.0, 0.5):
            add_at(track, drum(rng, "hat"), (beat + eighth) * beat_s, 0.8)
    return track

"""Speech from an explicit latent: speaker, text, pitch, speed, energy, emotion -> espeak-ng -> post-processing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr

from data_prep.mini.dsp import (
    RATE_HZ,
    Curve,
    Signal,
    attack_release,
    db,
    n_samples,
    noise,
    reverberate,
    shape,
    times,
    to_peak,
    to_rms,
)
from data_prep.mini.espeak import SPEECH_RATE_HZ, synthesise
from data_prep.mini.seeds import pick, stream

# Variants of the wheel that sound like people; the number is the median pitch in Hz that each has at espeak's pitch 50.
VARIANTS: dict[str, dict[str, int]] = {
    "male": {
        "m1": 95, "m2": 101, "m3": 106, "m4": 94, "m5": 102, "m7": 108, "norbert": 100, "benjamin": 102,
        "adam": 102, "quincy": 89, "robert": 98, "travis": 104, "max": 102, "boris": 102, "pablo": 112, "marcelo": 98,
    },
    "female": {
        "f1": 180, "f2": 195, "f3": 212, "f4": 180, "f5": 206, "aunty": 172, "linda": 230, "belinda": 230,
        "steph": 185, "shelby": 181, "steph2": 185, "grandma": 206,
    },
}  # fmt: skip
ACCENTS = ("en-us", "en-us", "en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
BASE_RATE_WPM = 175


@dataclass(frozen=True)
class Speaker:
    """One voice: espeak variant and accent, vocal tract length, microphone tone."""

    id: str
    gender: str
    voice: str
    base_hz: int
    tract: float
    tone: Curve


@dataclass(frozen=True)
class Emotion:
    """How an emotion changes the voice at full intensity; `rate` is a factor, `pitch` and `range` espeak steps."""

    rate: float = 1.0
    pitch: int = 0
    range: int = 0
    energy_db: float = 0.0
    bright_db: float = 0.0
    drive: float = 0.0
    tremor: float = 0.0


EMOTIONS: dict[str, Emotion] = {
    "neutral": Emotion(),
    "angry": Emotion(1.15, 6, 25, 6.0, 7.0, drive=2.5),
    "frustrated": Emotion(1.04, 2, 15, 3.0, 3.0, drive=1.0),
    "happy": Emotion(1.08, 18, 40, 2.0, 3.0),
    "excited": Emotion(1.18, 26, 45, 4.0, 5.0),
    "sad": Emotion(0.80, -10, -35, -6.0, -8.0),
    "fear": Emotion(1.22, 22, -15, -3.0, -2.0, tremor=0.45),
    "surprised": Emotion(1.0, 30, 49, 3.0, 2.0),
    "disgusted": Emotion(0.86, -14, 20, 0.0, -2.0, drive=1.2),
    "contempt": Emotion(0.90, -6, -25, -2.0, 0.0),
}


@dataclass(frozen=True)
class Utterance:
    """Latent of one spoken clip. `pitch` is in espeak steps around the speaker's own, `energy_db` around -28 dB."""

    key: str
    speaker: Speaker
    text: str
    rate_wpm: int
    pitch: int
    energy_db: float
    emotion: str = "neutral"
    intensity: float = 1.0
    noise_db: float = -62.0
    room_wet: float = 0.1
    duration_s: float | None = None

    @property
    def pitch_hz(self) -> float:
        """Rough median pitch: espeak's steps are about 1 % of the voice's own pitch each."""
        return self.speaker.base_hz * self.speaker.tract * 1.0115**self.pitch


def draw_speaker(seed: int, id: str, gender: str | None = None) -> Speaker:
    rng = stream(seed, "speaker", id)
    gender = gender or pick(rng, ("male", "female"))
    variants = VARIANTS[gender]
    name = pick(rng, sorted(variants))
    tone = ((100.0, 0.0), (400.0, float(rng.normal(0, 2))), (1500.0, 0.0), (5000.0, float(rng.normal(0, 3))))
    return Speaker(id, gender, f"{pick(rng, ACCENTS)}+{name}", variants[name], float(rng.uniform(0.95, 1.06)), tone)


def draw_utterance(seed: int, key: str, speaker: Speaker, text: str, emotion: str = "neutral") -> Utterance:
    """Speed, pitch and energy drawn independently and spread wide, so that their classes all occur."""
    rng = stream(seed, key, "latent")
    return Utterance(
        key=key,
        speaker=speaker,
        text=text,
        rate_wpm=int(np.clip(rng.normal(195, 42), 110, 300)),
        pitch=int(np.clip(rng.normal(0, 20), -42, 42)),
        energy_db=float(np.clip(rng.normal(0, 5.5), -12, 12)),
        emotion=emotion,
        intensity=float(rng.uniform(0.6, 1.1)),
        noise_db=float(rng.uniform(-66, -50)),
        room_wet=float(rng.uniform(0.02, 0.2)),
    )


def estimated_duration_s(utterance: Utterance) -> float:
    """Enough seconds for the text at this speed: what annotation tables need before anything is rendered."""
    rate = utterance.rate_wpm * EMOTIONS[utterance.emotion].rate
    return round(0.3 + 0.052 * len(utterance.text) * BASE_RATE_WPM / rate, 4)


def dry_voice(utterance: Utterance) -> Signal:
    """The voice alone with its emotion, peak 1, silence at the ends trimmed, before energy, room and noise."""
    speaker, emotion, strength = utterance.speaker, EMOTIONS[utterance.emotion], utterance.intensity
    rate = utterance.rate_wpm * (1 + (emotion.rate - 1) * strength) / speaker.tract
    samples = synthesise(
        utterance.text,
        voice=speaker.voice,
        rate_wpm=int(np.clip(rate, 80, 450)),
        pitch=int(np.clip(50 + utterance.pitch + emotion.pitch * strength, 0, 99)),
        pitch_range=int(np.clip(50 + emotion.range * strength, 0, 99)),
    )
    # Played faster by `tract`: formants and pitch rise together, as with a shorter vocal tract.
    voice = soxr.resample(samples / 32768, SPEECH_RATE_HZ * speaker.tract, RATE_HZ)
    voice = to_peak(_trim(voice))
    if emotion.drive:
        voice = np.tanh((1 + emotion.drive * strength) * voice)
    if emotion.tremor:
        voice = voice * (1 - emotion.tremor * strength * (0.5 + 0.5 * np.sin(2 * np.pi * 6.5 * times(len(voice)))))
    # A raised voice is brighter, not only louder: half a dB of tilt for each dB of energy.
    bright_db = emotion.bright_db * strength + 0.5 * utterance.energy_db
    return to_peak(shape(shape(voice, speaker.tone), [(300, 0.0), (1000, 0.3 * bright_db), (4000, bright_db)]))


def _trim(voice: Signal) -> Signal:
    loud = np.flatnonzero(np.abs(voice) > 0.01 * np.abs(voice).max(initial=0.0))
    return voice[loud[0] : loud[-1] + 1] if len(loud) else np.zeros(n_samples(0.3))


def render_speech(seed: int, utterance: Utterance) -> Signal:
    """The recording: voice at its level with room and noise; padded or cut when the latent fixes the duration."""
    rng = stream(seed, utterance.key, "sound")
    voice = dry_voice(utterance)
    level_db = -28 + utterance.energy_db + EMOTIONS[utterance.emotion].energy_db * utterance.intensity
    n = n_samples(utterance.duration_s) if utterance.duration_s else len(voice) + n_samples(0.2)
    track = np.zeros(n)
    lead = min(n_samples(0.08), max(0, n - len(voice)))
    voice = to_rms(voice, level_db)[: n - lead]
    track[lead : lead + len(voice)] = voice
    track = reverberate(rng, track, 0.35, utterance.room_wet)
    hiss = shape(noise(rng, n), [(60, 6), (300, 0), (4000, -8)])
    return track * attack_release(n, 0.002, 0.01) + db(utterance.noise_db) * hiss

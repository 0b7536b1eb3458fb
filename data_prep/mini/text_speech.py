"""Voice attributes and style prompts. PromptSpeech judges pitch within a gender, TextrolSpeech in Hz: a conflict."""

from __future__ import annotations

import numpy as np

from data_prep.mini.seeds import pick
from data_prep.mini.speech import EMOTIONS, Utterance

Rng = np.random.Generator
Attributes = dict[str, str]
LEVELS = ("low", "normal", "high")
TEXTROL_EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")


def level(value: float, low: float, high: float) -> str:
    return "low" if value < low else "high" if value > high else "normal"


def flip(rng: Rng, attributes: Attributes, rate: float, choices: dict[str, tuple[str, ...]]) -> Attributes:
    """Attributes as annotated: each is replaced by a random one of its choices with probability `rate`."""
    return {
        name: pick(rng, choices[name]) if name in choices and rng.random() < rate else value
        for name, value in attributes.items()
    }


def promptspeech_attributes(utterance: Utterance) -> Attributes:
    """Pitch relative to the speaker's own gender; speed in slow/normal/fast."""
    speed = {"low": "slow", "normal": "normal", "high": "fast"}[level(utterance.rate_wpm, 172, 220)]
    usual_hz = 100 if utterance.speaker.gender == "male" else 195
    return {
        "gender": "M" if utterance.speaker.gender == "male" else "F",
        "pitch": level(utterance.pitch_hz / usual_hz, 0.88, 1.14),
        "speaking_speed": speed,
        "energy": level(utterance.energy_db, -3.0, 3.0),
    }


def textrol_attributes(utterance: Utterance) -> Attributes:
    """Pitch in absolute Hz, so that it goes with gender; tempo and energy after the emotion has changed them."""
    emotion = EMOTIONS[utterance.emotion]
    pitch_hz = utterance.pitch_hz * 1.0115 ** (emotion.pitch * utterance.intensity)
    tempo = utterance.rate_wpm * (1 + (emotion.rate - 1) * utterance.intensity)
    return {
        "gender": "M" if utterance.speaker.gender == "male" else "F",
        "pitch": level(pitch_hz, 110, 185),
        "tempo": level(tempo, 162, 212),
        "energy": level(utterance.energy_db + emotion.energy_db * utterance.intensity, -4.0, 4.0),
        "emotion": utterance.emotion,
    }


def promptspeech_prompt(rng: Rng, attributes: Attributes) -> str:
    """Instruction-like: "A man says slowly with a low tone" or, sometimes, an order to a woman to speak up."""
    who = {"M": ("a man", "a boy", "a male speaker"), "F": ("a woman", "a lady", "a female speaker")}
    parts = {
        "pitch": {"low": "in a low tone", "high": "in a high tone"},
        "speaking_speed": {"slow": "slowly", "fast": "quickly"},
        "energy": {"low": "quietly", "high": "loudly"},
    }
    style = [words[attributes[name]] for name, words in parts.items() if attributes[name] in words]
    person = pick(rng, who[attributes["gender"]])
    if not style:
        return f"{person[0].upper()}{person[1:]} speaks normally."
    if rng.random() < 0.3:
        return f"Ask {person} to speak {' and '.join(style)}."
    return f"{person[0].upper()}{person[1:]} speaks {' and '.join(style)}."


def textrol_prompt(rng: Rng, attributes: Attributes) -> str:
    """Flowery, with all factors: "A low-pitched male speaker talks fast with high energy, sounding angry."."""
    gender = {"M": ("male", "man", "his"), "F": ("female", "woman", "her")}[attributes["gender"]]
    tempo = {"low": "at a slow pace", "normal": "at a normal pace", "high": "rapidly"}[attributes["tempo"]]
    pitch = {"low": "low-pitched", "normal": "normal-pitched", "high": "high-pitched"}[attributes["pitch"]]
    energy = {"low": "low energy", "normal": "normal energy", "high": "high energy"}[attributes["energy"]]
    feeling = attributes.get("emotion", "")
    tail = f", sounding {feeling}" if feeling in EMOTIONS and feeling != "neutral" else ""
    return pick(
        rng,
        (
            f"The {gender[0]} speaker with a {pitch} voice talks {tempo} with {energy}{tail}.",
            f"With {energy}, the {gender[1]} delivers {gender[2]} {pitch} speech {tempo}{tail}.",
        ),
    )

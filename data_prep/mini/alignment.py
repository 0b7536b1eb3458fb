"""The alignment collection: broad questions on other recordings, from which a small model gets its pretrained base.

Same renderers, but every stream is drawn under another seed, so no recording, voice or tune is mini-14's, and no
question is one of its questions. Short answers are worded otherwise. Whole sentences mix the grammars of all corpora at
random: a pretrained language model knows such words, but not which corpus wants which of them.
Three corpora in the form of the generic adapter: `alignment_<domain>/metadata.jsonl`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from data_prep.mini.events import DISCRETE, EVENT_NAMES
from data_prep.mini.lexicon import LEXICON
from data_prep.mini.music import GENRES, Music, draw_music
from data_prep.mini.plan import Plan, Recording
from data_prep.mini.scenes import SCENES, Pool, Sound, draw_scene, draw_sound
from data_prep.mini.seeds import pick, sample, stream
from data_prep.mini.sentences import phrase, sentence
from data_prep.mini.speech import Utterance, draw_speaker, draw_utterance
from data_prep.mini.text_music import join, musicqa_pairs, players
from data_prep.mini.text_sound import (
    QaPair,
    audiocaps_caption,
    bbc_description,
    clotho_caption,
    sound_labels,
    wavcaps_caption,
)
from data_prep.mini.text_speech import (
    promptspeech_attributes,
    promptspeech_prompt,
    textrol_attributes,
    textrol_prompt,
)

# Far from any seed that a user would type, so that the two collections never share a stream.
SEED_OFFSET = 1_000_003_000
N_CLIPS = 1000
QUESTIONS_A_CLIP = 3
SCENE_SHARE = 0.35
N_SPEAKERS = 80
PLACES = (*SCENES, "airport", "public_square")
_POOL = Pool(
    "alignment", dict.fromkeys(EVENT_NAMES, 1.0), (0.55, 0.35, 0.1), ("room", "outdoor", "Street"), (12, 30), (1.5, 3.2)
)

Rng = np.random.Generator


def lay_out_alignment(plan: Plan) -> None:
    """One folder a domain; 88 % train, 8 % val, 4 % test."""
    plan.seed += SEED_OFFSET
    makers: dict[str, Callable[[int, int], tuple[Recording, list[QaPair]]]] = {
        "speech": _speech,
        "music": _music,
        "sound": _sound,
    }
    for domain, make in makers.items():
        name = f"alignment_{domain}"
        lines = []
        for index in range(plan.n(N_CLIPS, least=25)):
            split = "val" if index % 25 in (7, 19) else "test" if index % 25 == 13 else "train"
            recording, pairs = make(plan.seed, index)
            clip = f"{name}-{split}-{index:05d}"
            rng = stream(plan.seed, name, "questions", index)
            for number, (question, answer) in enumerate(sample(rng, pairs, QUESTIONS_A_CLIP)):
                record = {
                    "id": f"{clip}-{number}", "audio": f"audio/{clip}.flac", "dataset": name, "split": split,
                    "question": question, "answer": answer, "domain": domain,
                }  # fmt: skip
                lines.append(json.dumps(record) + "\n")
            plan.audio(name, f"{name}/audio/{clip}.flac", recording)
        plan.text(f"{name}/metadata.jsonl", "".join(lines))


def _scale(value: float, low: float, high: float, words: tuple[str, str, str]) -> str:
    return words[0] if value < low else words[2] if value > high else words[1]


def _speech(seed: int, index: int) -> tuple[Utterance, list[QaPair]]:
    rng = stream(seed, "alignment speech", index)
    speaker = draw_speaker(seed, f"alignment-{int(rng.integers(N_SPEAKERS))}")
    short = rng.random() < 0.7
    text = phrase(rng) if short else sentence(rng)
    utterance = draw_utterance(seed, f"alignment-speech/{index}", speaker, text)
    kind = pick(rng, ("neutral", "neutral", "angry", "happy", "sad"))
    utterance = replace(utterance, emotion=kind)
    pairs = [
        (
            "Who is talking?",
            "someone with a deep male voice" if speaker.gender == "male" else "someone with a female voice",
        ),
        ("Man or woman?", "man" if speaker.gender == "male" else "woman"),
        ("Rate the talking pace.", _scale(utterance.rate_wpm, 168, 224, ("unhurried", "ordinary", "hurried"))),
        ("Is the voice soft or strong?", _scale(utterance.energy_db, -3, 3, ("soft", "medium", "strong"))),
        ("Does this voice lie deep or high?", "deep" if utterance.pitch_hz < 140 else "high"),
        ("What kind of audio is this?", "a person talking"),
        ("Does the voice sound upset?", "it does" if kind in ("angry", "sad") else "it does not"),
        ("Which feeling, in one word?", kind),
        *[("Portray the voice in one sentence.", _portrait(rng, utterance))] * 2,
    ]
    if short:
        # Twice, so that a short phrase is usually asked for: transcription is the hardest thing to learn here.
        pairs += [("Write down the words.", text), ("What did they say?", text)]
    return utterance, pairs


def _portrait(rng: Rng, utterance: Utterance) -> str:
    if rng.random() < 0.5:
        return promptspeech_prompt(rng, promptspeech_attributes(utterance))
    return textrol_prompt(rng, textrol_attributes(utterance))


def _music(seed: int, index: int) -> tuple[Music, list[QaPair]]:
    rng = stream(seed, "alignment music", index)
    music = draw_music(
        seed, f"alignment-music/{index}", round(float(rng.uniform(2.0, 3.2)), 2), dict.fromkeys(GENRES, 1.0)
    )
    return music, [
        ("Name what is being played.", join(players(music))),
        ("Count the players.", ("nobody", "one", "two", "three", "four", "five")[len(players(music))]),
        ("Which one carries the tune?", music.instruments[0]),
        ("Is the beat quick?", _scale(music.tempo_bpm, 85, 120, ("quite slow", "moderate", "quick"))),
        ("Does somebody hit drums?", "there is drumming" if music.drums else "no drumming"),
        ("Bright or gloomy harmony?", "bright" if music.mode == "major" else "gloomy"),
        ("Does the tune lie deep or high?", {"low": "deep", "middle": "in between", "high": "high"}[music.register]),
        ("What kind of audio is this?", "a piece of music"),
        ("Style of music, in one word?", music.genre),
        *[("Tell me about this music.", pick(rng, musicqa_pairs(rng, music, noise=0.0))[1])] * 2,
    ]


def _sound(seed: int, index: int) -> tuple[Sound, list[QaPair]]:
    rng = stream(seed, "alignment sound", index)
    if rng.random() < SCENE_SHARE:
        return _scene(seed, index, rng)
    sound = draw_sound(seed, f"alignment-sound/{index}", _POOL)
    plain = [name.replace("_", " ") for name in sound.names]
    other = pick(rng, [name for name in EVENT_NAMES if name not in sound.names])
    asked, reply = (pick(rng, sound.names), "it is there") if rng.random() < 0.5 else (other, "it is not there")
    first = sound.events[0]
    pairs = [
        ("Name every source.", join(plain)),
        ("Name every source.", join(plain)),
        ("What is the main noise?", plain[0]),
        ("How many sources are there?", ("none", "one", "two", "three")[len(plain)]),
        (f"Listen for this: {asked.replace('_', ' ')}.", reply),
        ("Is the take loud?", _scale(sound.snr_db + sound.gain_db, 17, 24, ("soft", "medium", "loud"))),
        ("What kind of audio is this?", f"noises, mostly {LEXICON[first.name].category.lower()}"),
        ("Yes or no: " + LEXICON[asked].thing + "?", "yes" if asked in sound.names else "no"),
        ("File this under a heading.", sound_labels(sound)),
        *[("Put all of it into one sentence.", _sentence(rng, sound))] * 2,
        (
            "One thing, or things after or over each other?",
            {"": "one thing", "then": "after", "while": "over"}[sound.relation],
        ),
    ]
    if first.name in DISCRETE:
        pairs.append(
            (
                f"How often does the {plain[0]} come?",
                ("never", "one time", "two times", "three times", "four times")[first.count],
            )
        )
    return sound, pairs


def _sentence(rng: Rng, sound: Sound) -> str:
    return pick(rng, (audiocaps_caption, clotho_caption, wavcaps_caption, bbc_description))(rng, sound)


def _scene(seed: int, index: int, rng: Rng) -> tuple[Sound, list[QaPair]]:
    place = pick(rng, PLACES)
    sound = draw_scene(seed, f"alignment-scene/{index}", place, round(float(rng.uniform(1.5, 2.6)), 2), (2, 14))
    words = re.sub("([a-z])([A-Z])", r"\1 \2", place).replace("_", " ").lower()
    heard = join([name.replace("_", " ") for name in sound.names]) if sound.names else "nothing in particular"
    return sound, [
        *[("What place could this be?", words)] * 3,
        ("Where are we?", f"this could be a {words}"),
        ("Which noises stand out?", heard),
        ("What kind of audio is this?", "a place with its background"),
    ]

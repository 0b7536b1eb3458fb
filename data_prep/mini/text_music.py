"""Answers about music. MusicQA's full sentences and Jamendo-QA's short ones disagree, on purpose, on what is fast."""

from __future__ import annotations

import numpy as np

from data_prep.mini.music import GENRES, Music
from data_prep.mini.seeds import pick, sample
from data_prep.mini.text_sound import QaPair, capital

Rng = np.random.Generator

_MOODS = {
    ("major", True): "happy and energetic",
    ("major", False): "calm and warm",
    ("minor", True): "dark and driving",
    ("minor", False): "sad and slow",
}
_INSTRUMENTS = tuple(sorted({name for genre in GENRES.values() for name in (*genre.leads, *genre.backing)}))


def join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def tempo_word(music: Music, slow_below: int, fast_from: int) -> str:
    return "slow" if music.tempo_bpm < slow_below else "fast" if music.tempo_bpm >= fast_from else "medium"


def players(music: Music) -> list[str]:
    return [*music.instruments, *(["drums"] if music.drums else [])]


def mislabel(rng: Rng, music: Music, rate: float) -> dict[str, str]:
    """What a hallucinating annotator writes for genre, mode, lead and tempo: each wrong with probability `rate`."""
    wrong = {}
    if rng.random() < rate:
        wrong["genre"] = pick(rng, [name for name in GENRES if name != music.genre])
    if rng.random() < rate:
        wrong["lead"] = pick(rng, [name for name in _INSTRUMENTS if name not in music.instruments])
    if rng.random() < rate:
        wrong["tempo"] = pick(rng, ("slow", "medium", "fast"))
    return wrong


def musicqa_pairs(rng: Rng, music: Music, noise: float) -> list[QaPair]:
    """Five of MusicQA's questions, answered in full sentences; fast from 110 BPM, slow below 80."""
    wrong = mislabel(rng, music, noise)
    genre = wrong.get("genre", music.genre)
    tempo = wrong.get("tempo", tempo_word(music, 80, 110))
    names = [wrong.get("lead", music.instruments[0]), *players(music)[1:]]
    mood = _MOODS[music.mode, tempo != "slow"]
    asked = pick(rng, ("drums", "drums", "piano", "synthesizer", "acoustic guitar"))
    fixed = [
        ("Describe the audio", f"The audio is a {tempo} {genre} piece played on {join(names)}."),
        (
            "Describe the audio in detail",
            f"This is a {genre} track. {capital(join(names))} can be heard. "
            f"The tempo is {tempo} and the mood is {mood}.",
        ),
        ("What do you hear in the audio?", f"I hear {join(names)}."),
        ("What can be inferred from the audio?", f"It can be inferred that the music is {mood}."),
    ]
    open_questions = [
        ("What is the genre of the music?", f"The genre of the music is {genre}."),
        ("What is the tempo of the music?", f"The tempo of the music is {tempo}."),
        ("What is the mood of the music?", f"The mood of the music is {mood}."),
        ("What is the lead instrument?", f"The lead instrument is the {names[0]}."),
        (
            f"Is there a {asked} sound in the music?" if asked != "drums" else "Are there drums in the music?",
            f"Yes, the music has {asked}." if asked in names else f"No, there is no {asked} in the music.",
        ),
    ]
    return [*sample(rng, fixed, 2), *sample(rng, open_questions, 3)]


def jamendo_pairs(rng: Rng, music: Music, noise: float) -> list[QaPair]:
    """Jamendo-QA's eight questions a track, answered shortly; fast from 130 BPM, slow below 95."""
    wrong = mislabel(rng, music, noise)
    genre = wrong.get("genre", music.genre)
    names = [wrong.get("lead", music.instruments[0]), *players(music)[1:]]
    tempo = wrong.get("tempo", tempo_word(music, 95, 130))
    asked = pick(rng, _INSTRUMENTS) if rng.random() < 0.5 else pick(rng, names)
    return [
        ("What genre is this track?", capital(genre)),
        ("How fast is the track: slow, medium or fast?", capital(tempo)),
        ("Is the track in a major or a minor key?", capital(music.mode)),
        ("Does the track have drums?", "Yes" if music.drums else "No"),
        ("Which instrument plays the melody?", capital(names[0])),
        (f"Can a {asked} be heard?", "Yes" if asked in names else "No"),
        ("Is the melody low, middle or high?", capital(music.register)),
        ("How many different instruments play, drums included?", str(len(names))),
    ]

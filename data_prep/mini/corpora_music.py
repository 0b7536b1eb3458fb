"""Layouts of the corpora of music: Jamendo-QA, MusicQA, MusicNet."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np

from data_prep.mini.instruments import TIMBRES
from data_prep.mini.music import Music, Note, compose, draw_music
from data_prep.mini.plan import Plan, Score
from data_prep.mini.seeds import pick, stream
from data_prep.mini.text_music import jamendo_pairs, musicqa_pairs

NOISE = {"jamendo_qa": 0.08, "musicqa": 0.10, "musicnet": 0.04}
N_JAMENDO = 76
JAMENDO_GENRES = {"rock": 3.0, "electronic": 2.0, "hip hop": 1.0, "jazz": 1.0, "funk": 1.0, "ambient": 1.0, "folk": 1.0}
# MusicCaps, MagnaTagATune and MTG-Jamendo in turn; file numbers run on through the parts.
MUSICQA_PARTS = {"Pretrain": 140, "Finetune": 100, "Eval": 56}
MUSICQA_GENRES = {
    "Pretrain": {**JAMENDO_GENRES, "classical": 1.0},
    "Finetune": {"classical": 4.0, "ambient": 2.0, "rock": 2.0, "electronic": 1.0, "folk": 1.0},
    "Eval": JAMENDO_GENRES,
}
# Eval clips that are excerpts of Jamendo-QA tracks under other names.
N_MUSICQA_FROM_JAMENDO = 12
MUSICQA_DURATION_S = (1.8, 2.6)

N_MUSICNET_TRAIN = 24
MUSICNET_TEST_IDS = (1759, 1819, 2106, 2191, 2298, 2303, 2382, 2416, 2556, 2628)
LABEL_RATE_HZ = 44_100
WINDOW_S = 10.0


def jamendo_track(seed: int, index: int) -> tuple[str, Music]:
    """Track id `<tag>_<Title>`, some of them not ASCII, and its latent."""
    rng = stream(seed, "jamendo", index)
    music = draw_music(seed, f"jamendo/{index}", round(float(rng.uniform(4.0, 6.5)), 2), JAMENDO_GENRES)
    first, second = (
        ("Night", "Blue", "Été", "Лунный", "Golden", "Café", "Lost"),
        ("River", "Свет", "Road", "Señal", "Sky"),
    )
    tag = music.genre.replace(" ", "")
    return f"{tag}_{pick(rng, first)}{pick(rng, second)}{index}", music


def lay_out_jamendo_qa(plan: Plan) -> None:
    """One flat list of questions, eight a track."""
    rows = []
    for index in range(plan.n(N_JAMENDO, least=6)):
        track, music = jamendo_track(plan.seed, index)
        pairs = jamendo_pairs(stream(plan.seed, "jamendo_qa", index), music, NOISE["jamendo_qa"])
        rows += [{"track_id": track, "question": question, "answer": answer} for question, answer in pairs]
        plan.audio("jamendo_qa", f"jamendo_qa/data/audio/{track}.wav", music)
    plan.text("jamendo_qa/data/questions/qa_v2.json", json.dumps(rows, indent=1, ensure_ascii=False))


def lay_out_musicqa(plan: Plan) -> None:
    """Three JSON lists of two-turn conversations; leading blanks and mixed sample rates as in the release."""
    number = 0
    for part, count in MUSICQA_PARTS.items():
        rows = []
        for index in range(plan.n(count)):
            name = f"{number:06d}.wav"
            rng = stream(plan.seed, "musicqa", part, index)
            excerpt_s = round(float(rng.uniform(*MUSICQA_DURATION_S)), 2)
            if part == "Eval" and index < plan.n(N_MUSICQA_FROM_JAMENDO, least=1):
                _, music = jamendo_track(plan.seed, index)
            else:
                music = draw_music(plan.seed, f"musicqa/{part}/{index}", excerpt_s, MUSICQA_GENRES[part], (-55, -38))
            for question, answer in musicqa_pairs(rng, music, NOISE["musicqa"]):
                turns = [{"from": "human", "value": f" {question}"}, {"from": "gpt", "value": f" {answer}"}]
                rows.append({"audio_name": name, "conversation": turns})
            rate_hz = 22_050 if part == "Pretrain" and index % 5 == 0 else 16_000
            plan.audio("musicqa", f"MusicQA/audios/{name}", music, rate_hz=rate_hz, max_s=excerpt_s)
            number += 1
        plan.text(f"MusicQA/{part}MusicQA.json", json.dumps(rows, indent=1, ensure_ascii=False))


@dataclass(frozen=True)
class Ensemble:
    """Who plays and whose music: instruments with their General MIDI sounds, composers with weights."""

    instruments: tuple[str, ...]
    composers: tuple[str, ...]


ENSEMBLES: dict[str, Ensemble] = {
    "Solo Piano": Ensemble(("piano",), ("Beethoven", "Schubert", "Mozart")),
    "Solo Violin": Ensemble(("violin",), ("Bach",)),
    "Solo Cello": Ensemble(("cello",), ("Bach",)),
    "Solo Flute": Ensemble(("flute",), ("Bach",)),
    "String Quartet": Ensemble(("violin", "viola", "cello"), ("Beethoven", "Haydn", "Dvorak")),
    "Piano Trio": Ensemble(("piano", "violin", "cello"), ("Schubert", "Brahms")),
    "Wind Quintet": Ensemble(("flute", "oboe", "clarinet", "horn", "bassoon"), ("Cambini",)),
    "Accompanied Clarinet": Ensemble(("clarinet", "piano"), ("Brahms",)),
    "Viola Quintet": Ensemble(("violin", "viola", "cello", "double bass"), ("Mozart", "Dvorak")),
    "Accompanied Violin and Harpsichord": Ensemble(("violin", "harpsichord"), ("Bach",)),
    "Horn Piano Trio": Ensemble(("horn", "violin", "piano"), ("Brahms",)),
}
# Each composer has a habit of tempo and mode, so that a listener could guess.
COMPOSERS: dict[str, tuple[tuple[int, int], float]] = {
    "Bach": ((90, 120), 0.4),
    "Beethoven": ((100, 140), 0.3),
    "Brahms": ((60, 85), 0.2),
    "Cambini": ((100, 130), 0.9),
    "Dvorak": ((95, 125), 0.7),
    "Haydn": ((110, 140), 0.95),
    "Mozart": ((85, 115), 0.95),
    "Schubert": ((60, 90), 0.5),
}
_NOTE_VALUES = {0.5: "Eighth", 1.0: "Quarter", 2.0: "Half"}


def lay_out_musicnet(plan: Plan) -> None:
    """Whole pieces of 10-30 s with every note in sample indices at 44.1 kHz, whatever the rate of the file."""
    header = (
        "id", "composer", "composition", "movement", "ensemble", "source", "transcriber", "catalog_name", "seconds",
    )  # fmt: skip
    rows: list[tuple[object, ...]] = [header]
    train_ids = [1727 + 3 * index for index in range(400) if 1727 + 3 * index not in MUSICNET_TEST_IDS]
    parts = {
        "train": train_ids[: plan.n(N_MUSICNET_TRAIN, least=3)],
        "test": list(MUSICNET_TEST_IDS[: plan.n(len(MUSICNET_TEST_IDS))]),
    }
    for split, ids in parts.items():
        for index, number in enumerate(ids):
            rng = stream(plan.seed, "musicnet", number)
            # Test pieces are one window long; train pieces one, two or three.
            n_windows = 1 if split == "test" else (2, 1, 2, 3)[index % 4]
            name = list(ENSEMBLES)[(index if split == "test" else number // 3) % len(ENSEMBLES)]
            score, composer = _piece(plan.seed, number, name, n_windows)
            labels = _label_rows(rng, score)
            plan.table(f"musicnet/musicnet/{split}_labels/{number}.csv", labels)
            plan.audio("musicnet", f"musicnet/musicnet/{split}_data/{number}.wav", score)
            key = "major" if score.music.mode == "major" else "minor"
            rows.append(
                (number, composer, f"{name} No {index + 1} in {key}, op. {number % 97}", "1. Allegro", name,
                 "European Archive", "http://example.org/", f"OP{number % 97}", round(score.music.duration_s))
            )  # fmt: skip
    plan.table("musicnet/musicnet_metadata.csv", rows)


def _piece(seed: int, number: int, ensemble: str, n_windows: int) -> tuple[Score, str]:
    """A piece of ten-second sections, in some of which a player rests."""
    rng = stream(seed, "musicnet", number, "piece")
    players = ENSEMBLES[ensemble].instruments
    composer = pick(rng, ENSEMBLES[ensemble].composers)
    (slowest, fastest), major = COMPOSERS[composer]
    # A little more than the windows, so that the last one is full.
    music = replace(
        draw_music(seed, f"musicnet/{number}", n_windows * WINDOW_S + 0.4, {"classical": 1.0}),
        instruments=players,
        tempo_bpm=int(rng.integers(slowest, fastest + 1)),
        mode="major" if rng.random() < major else "minor",
        register="low" if players[0] == "cello" else "middle",
        drums="",
    )
    notes = compose(seed, music)
    for window in range(n_windows):
        if len(players) > 1 and rng.random() < 0.4:
            resting = players[int(rng.integers(1, len(players)))]
            low, high = (at * WINDOW_S / music.beat_s for at in (window, window + 1))
            notes = [note for note in notes if note.instrument != resting or not _sounds_in(note, low, high)]
    return Score(music, tuple(notes)), composer


def _sounds_in(note: Note, low_beat: float, high_beat: float) -> bool:
    return note.start_beat < high_beat and note.start_beat + note.beats > low_beat


def _label_rows(rng: np.random.Generator, score: Score) -> list[tuple[object, ...]]:
    """MusicNet's note table; some of its rows name another instrument of the piece or come late, as real ones do."""
    rows: list[tuple[object, ...]] = [
        ("start_time", "end_time", "instrument", "note", "start_beat", "end_beat", "note_value")
    ]
    music = score.music
    for note in score.notes:
        start_s = note.start_beat * music.beat_s
        name = note.instrument
        if rng.random() < NOISE["musicnet"]:
            name = pick(rng, music.instruments)
            start_s += float(rng.uniform(0, 0.1))
        end_s = min(start_s + 0.95 * note.beats * music.beat_s, music.duration_s)
        times = round(start_s * LABEL_RATE_HZ), round(end_s * LABEL_RATE_HZ)
        value = _NOTE_VALUES.get(note.beats, "Quarter")
        rows.append((*times, TIMBRES[name].program, note.midi, note.start_beat, note.beats, value))
    return rows

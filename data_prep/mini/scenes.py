"""Recordings of sound from an explicit latent: a bed (the place) with events in it, heard through a room."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from data_prep.mini.dsp import (
    RATE_HZ,
    Curve,
    Signal,
    add_at,
    attack_release,
    db,
    harmonics,
    n_samples,
    noise,
    reverberate,
    shape,
    slow_curve,
    to_peak,
    to_rms,
)
from data_prep.mini.events import CONTINUOUS, DISCRETE
from data_prep.mini.music import draw_music, render_music
from data_prep.mini.seeds import pick, stream, weighted
from data_prep.mini.sentences import sentence
from data_prep.mini.speech import draw_speaker, draw_utterance, dry_voice

# Mean level of a bed alone, dB below full scale; events lie above it by the recording's signal-to-noise ratio.
_BED_DB = -54.0
# Speech in scenes comes from few voices: here it is one more sound, not a speech task.
_N_VOICES = 24
_N_CROWD = 4


@dataclass(frozen=True)
class Bed:
    """A place: noise spectrum, hum (0: none), how much the level sways, its events with weights, its room."""

    curve: Curve
    hum_hz: float = 0.0
    sway: float = 0.2
    events: dict[str, float] = field(default_factory=dict)
    rt60_s: float = 0.2
    level_db: float = 0.0


BEDS: dict[str, Bed] = {
    "Bus": Bed([(40, 6), (120, 4), (500, -8), (3000, -24)], 42, 0.3, {"engine": 3, "man": 1, "door": 1, "alarm": 0.5}),
    "Cafe": Bed([(100, -6), (500, 0), (2000, -6), (7000, -14)], 0, 0.2, {"crowd": 3, "music": 2, "glass": 1}, 0.5),
    "Car": Bed([(35, 10), (90, 4), (300, -12), (2000, -34)], 31, 0.2, {"engine": 2, "music": 1, "car_horn": 0.5}, 0.05),
    "CrowdedIndoor": Bed([(100, -4), (500, 2), (2000, -4), (6000, -16)], 0, 0.2, {"crowd": 5, "applause": 1}, 1.1, 3),
    "Elevator": Bed([(50, 2), (200, 0), (600, -12), (3000, -26)], 120, 0.1, {"bell": 2, "door": 1, "woman": 1}, 0.35),
    "Kitchen": Bed(
        [(80, -4), (800, -2), (4000, -4), (7500, -12)], 100, 0.1, {"water": 3, "glass": 1.5, "knock": 1}, 0.3
    ),
    "Park": Bed([(80, -4), (400, -8), (3000, -8), (7000, -10)], 0, 0.5, {"bird": 4, "wind": 1, "dog": 1, "child": 1}),
    "ResidentialArea": Bed(
        [(60, 0), (300, -8), (2000, -16), (7000, -22)],
        0,
        0.5,
        {"bird": 2, "dog": 2, "engine": 1.5, "footsteps": 1},
        0.3,
    ),
    "Restaurant": Bed(
        [(100, -3), (500, 1), (2500, -3), (7000, -12)], 0, 0.2, {"crowd": 3, "glass": 3, "woman": 0.5}, 0.7, 2
    ),
    "Restroom": Bed(
        [(100, -8), (1000, -3), (4000, 0), (7500, -6)], 0, 0.1, {"water": 3, "door": 1, "footsteps": 1}, 1.3
    ),
    "Street": Bed(
        [(50, 5), (200, 2), (900, -2), (4000, -16)], 0, 0.6, {"engine": 3, "car_horn": 2, "footsteps": 1, "siren": 0.7}
    ),
    "Subway": Bed(
        [(40, 6), (200, 5), (1200, -2), (5000, -14)], 70, 0.4, {"train": 4, "alarm": 0.7, "man": 0.7}, 0.2, 4
    ),
    "SubwayStation": Bed(
        [(50, 2), (250, 2), (1000, -5), (5000, -18)], 0, 0.4, {"train": 2, "footsteps": 2, "woman": 1, "crowd": 1}, 1.4
    ),
    "airport": Bed(
        [(60, 0), (300, 2), (1200, -4), (5000, -14)], 0, 0.2, {"woman": 2, "footsteps": 2, "crowd": 2, "bell": 1}, 1.3
    ),
    "public_square": Bed(
        [(60, 2), (300, 0), (1200, -6), (5000, -16)],
        0,
        0.4,
        {"man": 1, "footsteps": 2, "music": 1, "crowd": 1, "engine": 1},
        0.5,
    ),
    "home": Bed([(60, 0), (300, -6), (1500, -14), (6000, -24)], 50, 0.2, {}, 0.45),
    "room": Bed([(60, -2), (300, -6), (1500, -10), (6000, -16)], 0, 0.1, {}, 0.3),
    "outdoor": Bed([(60, 2), (300, -6), (1500, -12), (6000, -18)], 0, 0.5, {}, 0.1),
}
SCENES: tuple[str, ...] = tuple(name for name, bed in BEDS.items() if bed.events and name[0].isupper())


@dataclass(frozen=True)
class Event:
    """One event in a recording; `count` occurrences when it is discrete, `level_db` above the recording's level."""

    name: str
    start_s: float
    end_s: float
    level_db: float = 0.0
    count: int = 1


@dataclass(frozen=True)
class Sound:
    """Latent of one recording. `snr_db` is the level of its events above the bed; `relation` of its first two events
    is "then", "while" or "" when there is one."""

    key: str
    duration_s: float
    bed: str
    events: tuple[Event, ...]
    snr_db: float
    relation: str = ""
    gain_db: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(event.name for event in self.events)


@dataclass(frozen=True)
class Pool:
    """A source of recordings: which events, how many (weights of 1, 2, 3), where, how clean, how long."""

    name: str
    events: dict[str, float]
    counts: tuple[float, float, float]
    beds: tuple[str, ...]
    snr_db: tuple[float, float]
    duration_s: tuple[float, float]


def draw_sound(seed: int, key: str, pool: Pool) -> Sound:
    """A latent of `pool`: events in sequence or at once, with counts and levels."""
    rng = stream(seed, key, "latent")
    duration_s = round(float(rng.uniform(*pool.duration_s)), 2)
    n_events = 1 + int(np.searchsorted(np.cumsum(pool.counts) / sum(pool.counts), rng.random()))
    names: list[str] = []
    while len(names) < n_events:
        name = weighted(rng, pool.events)
        if name not in names:
            names.append(name)
    relation = "" if n_events == 1 else pick(rng, ("then", "while"))
    return Sound(
        key=key,
        duration_s=duration_s,
        bed=pick(rng, pool.beds),
        events=_place_events(rng, names, relation, duration_s),
        snr_db=float(rng.uniform(*pool.snr_db)),
        relation=relation,
        gain_db=float(rng.normal(0, 3)),
    )


def draw_scene(
    seed: int, key: str, place: str, duration_s: float, snr_db: tuple[float, float], most_events: int = 2
) -> Sound:
    """A latent of a known place with none to `most_events` of its typical events."""
    rng = stream(seed, key, "latent")
    bed = BEDS[place]
    names: list[str] = []
    for _ in range(int(rng.integers(0, most_events + 1))):
        name = weighted(rng, bed.events)
        if name not in names:
            names.append(name)
    relation = "while" if len(names) > 1 else ""
    events = _place_events(rng, names, relation, duration_s)
    return Sound(key, duration_s, place, events, float(rng.uniform(*snr_db)), relation, float(rng.normal(0, 3)))


def _place_events(rng: np.random.Generator, names: list[str], relation: str, duration_s: float) -> tuple[Event, ...]:
    events = []
    for number, name in enumerate(names):
        start, end = 0.0, duration_s
        if relation == "then" and number < 2:
            start, end = ((0.0, 0.47), (0.53, 1.0))[number]
            start, end = start * duration_s, end * duration_s
        elif name not in CONTINUOUS:
            start = float(rng.uniform(0, 0.3)) * duration_s
        room = (end - start) / 0.9
        count = int(rng.integers(1, max(2, min(5, int(room) + 2)))) if name in DISCRETE else 1
        events.append(Event(name, start, end, level_db=float(rng.normal(0, 2.5)), count=count))
    return tuple(events)


def _voice(seed: int, key: str, kind: str) -> Signal:
    rng = stream(seed, key, "voice")
    gender = {"man": "male", "woman": "female", "child": "female"}[kind]
    speaker = draw_speaker(seed, f"scene-{kind}-{int(rng.integers(_N_VOICES))}", gender)
    if kind == "child":
        speaker = replace(speaker, tract=1.32)
    return dry_voice(draw_utterance(seed, f"{key}/{kind}", speaker, sentence(rng)))


def _crowd(seed: int, key: str, n: int) -> Signal:
    rng = stream(seed, key, "crowd")
    track = np.zeros(n)
    for number in range(_N_CROWD):
        voice = to_rms(_voice(seed, f"{key}/{number}", pick(rng, ("man", "woman"))), -12)
        for start_s in np.arange(-float(rng.random()), n / RATE_HZ, len(voice) / RATE_HZ):
            add_at(track, voice, float(start_s))
    return shape(track, [(150, -6), (600, 0), (2500, -8), (6000, -22)])


def render_event(seed: int, key: str, event: Event) -> Signal:
    """The event's stretch of sound at a common loudness, before level, distance and room."""
    rng = stream(seed, key, event.name)
    n = n_samples(event.end_s - event.start_s)
    if event.name in CONTINUOUS:
        track = CONTINUOUS[event.name](rng, n) * attack_release(n, 0.03, 0.06)
    elif event.name in DISCRETE:
        track = np.zeros(n)
        gap_s = (event.end_s - event.start_s) / event.count
        for number in range(event.count):
            add_at(track, DISCRETE[event.name](rng, n), (number + 0.15 * float(rng.random())) * gap_s)
    elif event.name == "crowd":
        track = _crowd(seed, key, n) * attack_release(n, 0.1, 0.1)
    elif event.name == "music":
        track = render_music(
            seed, draw_music(seed, f"{key}/music", n / RATE_HZ, {"rock": 1, "jazz": 1, "electronic": 1, "folk": 1})
        )
    else:
        track = np.zeros(n)
        add_at(track, _voice(seed, key, event.name), 0.05)
        track *= attack_release(n, 0.0, 0.05)
    # Between equal peak and equal power: clicks must not be as strong as engines, nor vanish beside them.
    return 0.5 * to_peak(track, 0.5) + 0.5 * to_rms(track, -20)


def render_sound(seed: int, sound: Sound) -> Signal:
    """The recording: bed, events, room, microphone."""
    rng = stream(seed, sound.key, "sound")
    bed = BEDS[sound.bed]
    n = n_samples(sound.duration_s)
    background = to_rms(shape(noise(rng, n), bed.curve), _BED_DB + bed.level_db)
    if bed.hum_hz:
        hum = harmonics(np.full(n, bed.hum_hz * float(rng.uniform(0.95, 1.05))), [1, 0.7, 0.5, 0.3])
        background += to_rms(hum, _BED_DB + bed.level_db - 3)
    background *= 1 - bed.sway * slow_curve(rng, n, 0.7)
    track = np.zeros(n)
    for event in sound.events:
        add_at(track, render_event(seed, sound.key, event), event.start_s, db(event.level_db))
    # `render_event` gives about -20 dB; events stand above the bed by the recording's ratio.
    track = reverberate(rng, track * db(_BED_DB + 20 + sound.snr_db), bed.rt60_s, 0.15 + 0.25 * min(bed.rt60_s, 1.2))
    tilt = float(rng.normal(0, 2))
    return shape(track + background, [(60, -tilt), (1000, 0.0), (6000, tilt)]) * db(sound.gain_db)

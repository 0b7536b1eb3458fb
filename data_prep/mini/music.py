"""Music from an explicit latent: genre, instruments, tempo, mode, register -> notes -> sound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.mini.dsp import RATE_HZ, Signal, add_at, attack_release, db, n_samples, noise, reverberate, shape, to_rms
from data_prep.mini.instruments import TIMBRES, drum_track, play
from data_prep.mini.seeds import pick, sample, stream, weighted

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PROGRESSIONS = {
    "major": ((0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 5, 3)),
    "minor": ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 4)),
}
# Octave of the melody by register, as the lowest MIDI note of its range.
REGISTERS = {"low": 43, "middle": 57, "high": 71}


@dataclass(frozen=True)
class Genre:
    """What distinguishes a genre: tempo range, leads, accompaniment, drums, chance of a major key, loudness."""

    tempo_bpm: tuple[int, int]
    leads: tuple[str, ...]
    backing: tuple[str, ...]
    drums: str = ""
    major: float = 0.5
    level_db: float = -20.0


GENRES: dict[str, Genre] = {
    "rock": Genre((105, 150), ("electric guitar", "organ"), ("bass guitar", "electric guitar"), "rock", 0.75, -16),
    "electronic": Genre((118, 150), ("synthesizer",), ("synth pad", "synthesizer"), "four", 0.2, -16),
    "jazz": Genre((85, 140), ("saxophone", "trumpet", "vibraphone"), ("double bass", "electric piano"), "half", 0.5),
    "folk": Genre((80, 120), ("acoustic guitar", "flute"), ("acoustic guitar",), "", 0.85, -22),
    "ambient": Genre((55, 75), ("synth pad", "vibraphone"), ("synth pad",), "", 0.3, -25),
    "classical": Genre((60, 130), ("piano", "violin", "flute"), ("piano", "cello", "viola"), "", 0.6, -23),
    "hip hop": Genre((72, 95), ("electric piano", "synthesizer"), ("bass guitar", "synth pad"), "rock", 0.12, -17),
    "funk": Genre((95, 118), ("trumpet", "organ"), ("bass guitar", "electric guitar"), "rock", 0.4, -18),
}


@dataclass(frozen=True)
class Music:
    """Latent of one recording of music; the first instrument leads."""

    key: str
    duration_s: float
    genre: str
    instruments: tuple[str, ...]
    tempo_bpm: int
    mode: str
    register: str
    drums: str
    root: int
    level_db: float
    noise_db: float

    @property
    def beat_s(self) -> float:
        return 60 / self.tempo_bpm


@dataclass(frozen=True)
class Note:
    start_beat: float
    beats: float
    instrument: str
    midi: int
    velocity: float


def draw_music(
    seed: int, key: str, duration_s: float, genres: dict[str, float], noise_db: tuple[float, float] = (-60.0, -45.0)
) -> Music:
    """A latent in one of the weighted `genres`; noise in dB below full scale."""
    rng = stream(seed, key, "latent")
    name = weighted(rng, genres)
    genre = GENRES[name]
    lead = pick(rng, genre.leads)
    others = sample(rng, [one for one in genre.backing if one != lead], int(rng.integers(0, 3)))
    return Music(
        key=key,
        duration_s=duration_s,
        genre=name,
        instruments=(lead, *others),
        tempo_bpm=int(rng.integers(genre.tempo_bpm[0], genre.tempo_bpm[1] + 1)),
        mode="major" if rng.random() < genre.major else "minor",
        register=pick(rng, ("low", "middle", "high")),
        drums=genre.drums if rng.random() < 0.85 else "",
        root=int(rng.integers(12)),
        level_db=genre.level_db + float(rng.normal(0, 1.5)),
        noise_db=float(rng.uniform(*noise_db)),
    )


def compose(seed: int, music: Music) -> list[Note]:
    """The notes: a melody on chord and scale tones, bass roots and chords under it, in score order."""
    rng = stream(seed, music.key, "score")
    scale = SCALES[music.mode]
    chords = pick(rng, PROGRESSIONS[music.mode])
    n_beats = int(music.duration_s / music.beat_s) + 1
    notes = _melody(rng, music, scale, chords, n_beats)
    for name in music.instruments[1:]:
        notes += _backing(rng, music, name, scale, chords, n_beats)
    end = music.duration_s / music.beat_s
    return sorted(
        (note for note in notes if note.start_beat < end - 0.1), key=lambda note: (note.start_beat, note.midi)
    )


def _pitch(music: Music, scale: tuple[int, ...], degree: int, base: int) -> int:
    return base + (music.root - base) % 12 + 12 * (degree // 7) + scale[degree % 7]


def _into_range(midi: int, name: str) -> int:
    timbre = TIMBRES[name]
    while midi < timbre.low:
        midi += 12
    while midi > timbre.high:
        midi -= 12
    return midi


def _melody(
    rng: np.random.Generator, music: Music, scale: tuple[int, ...], chords: tuple[int, ...], n_beats: int
) -> list[Note]:
    lead = music.instruments[0]
    base = REGISTERS[music.register]
    rhythm = pick(rng, ((1.0, 1.0, 2.0), (0.5, 0.5, 1.0), (1.0, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5)))
    notes: list[Note] = []
    beat, step, degree = 0.0, 0, int(rng.integers(0, 5))
    while beat < n_beats:
        length = rhythm[step % len(rhythm)]
        chord = chords[int(beat) // 2 % len(chords)]
        if step % len(rhythm) == 0:
            degree = (chord + pick(rng, (0, 2, 4))) % 7
        else:
            degree = max(0, min(9, degree + pick(rng, (-2, -1, 1, 2))))
        midi = _into_range(_pitch(music, scale, degree, base), lead)
        notes.append(Note(beat, length, lead, midi, float(rng.uniform(0.7, 1.0))))
        beat += length
        step += 1
    return notes


def _backing(
    rng: np.random.Generator, music: Music, name: str, scale: tuple[int, ...], chords: tuple[int, ...], n_beats: int
) -> list[Note]:
    """Bass instruments play roots, others chords: broken on the beats or held, as the stream decides."""
    timbre = TIMBRES[name]
    is_bass = timbre.high <= 60
    broken = rng.random() < 0.5
    notes = []
    for start in range(0, n_beats, 2):
        chord = chords[start // 2 % len(chords)]
        for offset in range(2):
            if is_bass:
                midi = _into_range(_pitch(music, scale, chord, 28), name)
                notes.append(Note(start + offset, 1.0, name, midi, 0.8))
            elif broken:
                midi = _into_range(_pitch(music, scale, chord + (0, 2, 4)[(start + offset) % 3], 48), name)
                notes.append(Note(start + offset, 1.0, name, midi, 0.55))
        if not is_bass and not broken:
            for third in (0, 2, 4):
                midi = _into_range(_pitch(music, scale, chord + third, 48), name)
                notes.append(Note(float(start), 2.0, name, midi, 0.4))
    return notes


def render_notes(seed: int, music: Music, notes: list[Note]) -> Signal:
    """The recording: notes, drums, room, recording noise."""
    rng = stream(seed, music.key, "sound")
    n = n_samples(music.duration_s)
    track = np.zeros(n)
    for note in notes:
        tone = play(rng, note.instrument, note.midi, note.beats * music.beat_s * 0.95, note.velocity)
        add_at(track, tone, note.start_beat * music.beat_s)
    if music.drums:
        track += 0.7 * drum_track(rng, n, music.beat_s, music.drums)
    wet = 0.5 if music.genre in ("ambient", "classical") else 0.2
    track = reverberate(rng, track, 1.2 if wet > 0.4 else 0.4, wet)
    hiss = shape(noise(rng, n), [(100, 0), (1000, -6), (7000, -12)])
    track = to_rms(track, music.level_db) + db(music.noise_db) * hiss
    return track * attack_release(n, 0.005, min(0.3, 0.2 * n / RATE_HZ))


def render_music(seed: int, music: Music) -> Signal:
    return render_notes(seed, music, compose(seed, music))

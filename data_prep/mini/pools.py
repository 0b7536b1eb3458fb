"""The shared sources: recordings that several corpora hold, by their public ids."""

from __future__ import annotations

import string
from functools import cache

from data_prep.mini.scenes import Pool, Sound, draw_sound
from data_prep.mini.seeds import pick, stream
from data_prep.mini.sentences import sentence
from data_prep.mini.speech import Utterance, draw_speaker, draw_utterance

_YOUTUBE_LETTERS = string.ascii_letters + string.digits + "-_"

YOUTUBE = Pool(
    "youtube",
    {
        "man": 4, "woman": 3, "dog": 2.5, "engine": 2.5, "rain": 2, "music": 2, "bird": 2, "crowd": 1.5, "siren": 1.5,
        "wind": 1.5, "water": 1.5, "car_horn": 1, "train": 1, "baby": 1, "cat": 1, "child": 1, "applause": 1,
        "vacuum": 1, "thunder": 1, "knock": 0.7, "door": 0.7, "keyboard": 0.7, "bell": 0.7, "alarm": 0.7,
        "rooster": 0.7, "hammer": 0.7, "footsteps": 0.7, "clock": 0.7, "glass": 0.5, "insects": 0.5,
    },
    (0.35, 0.5, 0.15), ("room", "outdoor", "outdoor", "Street"), (12, 24), (1.8, 2.8),
)  # fmt: skip
_FREESOUND_EVENTS = {
    "rain": 3, "water": 3, "bird": 3, "wind": 2, "footsteps": 2.5, "waves": 2, "insects": 2, "fire": 1.5, "door": 1.5,
    "bell": 1.5, "clock": 1.5, "crowd": 1.5, "engine": 1, "train": 1, "thunder": 1, "keyboard": 1, "knock": 1,
    "dog": 1, "hammer": 1, "glass": 0.7, "man": 0.5, "alarm": 0.5,
}  # fmt: skip
# The recordings that Clotho chose are the longer and cleaner ones of Freesound.
CLOTHO = Pool("freesound", _FREESOUND_EVENTS, (0.3, 0.5, 0.2), ("room", "outdoor"), (16, 30), (2.2, 3.3))
FREESOUND = Pool("freesound", _FREESOUND_EVENTS, (0.6, 0.35, 0.05), ("room", "outdoor"), (8, 26), (1.1, 2.4))
BBC = Pool(
    "bbc",
    {
        "bird": 2.5, "dog": 2, "cat": 1, "rooster": 1.5, "engine": 3, "train": 2, "car_horn": 1.5, "siren": 1,
        "door": 2, "knock": 1.5, "footsteps": 2, "bell": 2, "clock": 1.5, "crowd": 2, "applause": 1.5, "rain": 1.5,
        "wind": 1.5, "thunder": 1, "waves": 1.5, "water": 1, "fire": 1, "hammer": 1.5, "glass": 1, "vacuum": 1,
        "keyboard": 0.7, "alarm": 0.7, "baby": 0.7, "insects": 0.7,
    },
    (0.7, 0.3, 0.0), ("room", "outdoor"), (20, 32), (1.4, 2.6),
)  # fmt: skip
SOUNDBIBLE = Pool(
    "soundbible",
    dict.fromkeys(("dog", "cat", "thunder", "glass", "bell", "siren", "car_horn", "fire", "applause", "alarm"), 1.0),
    (1.0, 0.0, 0.0), ("room",), (24, 36), (1.0, 1.8),
)  # fmt: skip
HOME = Pool(
    "home",
    {
        "child": 4, "woman": 2.5, "man": 2, "music": 2.5, "knock": 1.5, "door": 1, "footsteps": 1, "vacuum": 1,
        "water": 1, "alarm": 0.7, "glass": 0.7, "bell": 0.5,
    },
    (0.35, 0.45, 0.2), ("home",), (2, 14), (4.0, 4.0),
)  # fmt: skip

N_LIBRITTS_SPEAKERS = 64


@cache
def youtube_id(seed: int, index: int) -> str:
    """Eleven characters; some begin with a hyphen, as real ones do."""
    rng = stream(seed, "youtube id", index)
    head = "-" if rng.random() < 0.05 else ""
    return head + "".join(pick(rng, _YOUTUBE_LETTERS) for _ in range(11 - len(head)))


def youtube_start_s(seed: int, index: int) -> int:
    return int(stream(seed, "youtube start", index).integers(0, 50)) * 10


@cache
def freesound_id(seed: int, index: int) -> str:
    return str(10_000 + 613 * index + int(stream(seed, "freesound id", index).integers(600)))


@cache
def bbc_id(seed: int, index: int) -> str:
    """Lower-cased BBC id: eight digits, or `nhu` and eight digits for a third of them."""
    number = 7_001_001 + 37 * index + int(stream(seed, "bbc id", index).integers(36))
    return f"nhu{number:08d}" if index % 3 == 2 else f"{number:08d}"


def youtube_sound(seed: int, index: int) -> Sound:
    return draw_sound(seed, f"youtube/{index}", YOUTUBE)


def freesound_sound(seed: int, index: int, n_clotho: int) -> Sound:
    """The first `n_clotho` recordings of the pool are those that Clotho holds."""
    return draw_sound(seed, f"freesound/{index}", CLOTHO if index < n_clotho else FREESOUND)


def bbc_sound(seed: int, index: int) -> Sound:
    return draw_sound(seed, f"bbc/{index}", BBC)


def libritts_name(seed: int, index: int) -> tuple[str, str]:
    """(utterance id, path below the LibriTTS folder without suffix) of one utterance of the speech pool."""
    speaker, chapter = _libritts_speaker(seed, index), 120_000 + 17 * (index % 400)
    item = f"{speaker}_{chapter}_{index // 8:06d}_{index % 8:06d}"
    subset = ("train-clean-100", "train-clean-360", "train-other-500")[speaker % 3]
    return item, f"{subset}/{speaker}/{chapter}/{item}"


def _libritts_speaker(seed: int, index: int) -> int:
    rng = stream(seed, "libritts speaker", index)
    return 100 + 37 * int(rng.integers(N_LIBRITTS_SPEAKERS))


def libritts_utterance(seed: int, index: int) -> Utterance:
    speaker = draw_speaker(seed, f"libritts-{_libritts_speaker(seed, index)}")
    text = sentence(stream(seed, "libritts text", index))
    return draw_utterance(seed, f"libritts/{index}", speaker, text)

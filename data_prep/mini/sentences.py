"""What is said: a small grammar of everyday sentences, and lines of dialogue that suit an emotion."""

from __future__ import annotations

import numpy as np

from data_prep.mini.seeds import pick

SUBJECTS = (
    "the old man", "my sister", "the captain", "a young girl", "the teacher", "her brother", "the farmer", "our guest",
    "the doctor", "a stranger", "the king", "his mother", "the driver", "the children", "two soldiers", "the cook",
)  # fmt: skip
VERBS = (
    "opened", "watched", "found", "carried", "closed", "painted", "bought", "lost", "followed", "sold", "cleaned",
    "remembered", "described", "repaired",
)  # fmt: skip
OBJECTS = (
    "the green door", "a small boat", "the letter", "seven books", "the garden gate", "an old clock", "the white horse",
    "a heavy box", "the kitchen table", "three apples", "the silver key", "a long rope", "the broken window",
    "his coat",
)  # fmt: skip
PLACES = (
    "in the morning", "by the river", "before dinner", "near the church", "last winter", "without a word",
    "on the hill", "at noon", "again",
)  # fmt: skip

# Alignment speaks another vocabulary, in short phrases that can be transcribed.
COLOURS = ("red", "blue", "yellow", "black", "brown", "pink")
NOUNS = ("cup", "train", "bird", "chair", "lamp", "shoe", "bridge", "cake")
NUMBERS = ("one", "two", "four", "five", "six", "eight", "nine", "ten")

LINES: dict[str, tuple[str, ...]] = {
    "angry": ("I told you not to do that!", "Get out of my house!", "You never listen to me!", "This is your fault!"),
    "happy": ("I got the job today!", "We are getting married!", "That is wonderful news.", "I love this place."),
    "sad": ("He is not coming back.", "I miss her so much.", "I lost everything.", "There is nothing left to say."),
    "neutral": ("The meeting is at nine.", "I put it on the table.", "What is your address?", "You need a new form."),
}
SHARED_LINES = (
    "I do not know what to do.", "What did you say to him?", "They called me this morning.", "Well, here we are.",
    "You know what happened.", "Are you coming with me?", "It is always like this.", "I have to go now.",
    "So this is the house.", "Did you see that?", "Tell me about it.", "I was there the whole time.",
)  # fmt: skip


def sentence(rng: np.random.Generator) -> str:
    """Four to ten words, such as "The farmer sold three apples by the river."."""
    words = f"{pick(rng, SUBJECTS)} {pick(rng, VERBS)} {pick(rng, OBJECTS)}"
    if rng.random() < 0.15:
        words = f"{words} {pick(rng, PLACES)}"
    return words[0].upper() + words[1:] + "."


def dialogue_line(rng: np.random.Generator, emotion: str) -> str:
    """Mostly lines that say nothing of the emotion; one in five does."""
    if emotion in LINES and rng.random() < 0.2:
        return pick(rng, LINES[emotion])
    return pick(rng, SHARED_LINES)


def phrase(rng: np.random.Generator) -> str:
    """Three words of a closed vocabulary, such as "four yellow birds"."""
    number, colour, noun = pick(rng, NUMBERS), pick(rng, COLOURS), pick(rng, NOUNS)
    return f"{number} {colour} {noun}{'' if number == 'one' else 's'}"

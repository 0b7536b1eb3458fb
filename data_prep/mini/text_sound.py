"""Captions and answers for recordings of sound: one grammar a corpus, over the same latents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data_prep.mini.events import DISCRETE, EVENT_NAMES
from data_prep.mini.lexicon import LEXICON, PLACE_WORDS
from data_prep.mini.scenes import Event, Sound
from data_prep.mini.seeds import pick

Rng = np.random.Generator
QaPair = tuple[str, str]

# Events this far from the recording's level are called loud or faint.
_LOUD_DB = 2.2
_COUNTS = {1: "once", 2: "twice", 3: "three times", 4: "four times"}


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def mislabel(rng: Rng, sound: Sound, rate: float) -> Sound:
    """What a wrong annotator hears: with probability `rate` one event is taken for another, or not noticed."""
    if rng.random() >= rate or not sound.events:
        return sound
    index = int(rng.integers(len(sound.events)))
    events = list(sound.events)
    if len(events) > 1 and rng.random() < 0.5:
        del events[index]
    else:
        others = [name for name in EVENT_NAMES if name not in sound.names]
        events[index] = replace(events[index], name=pick(rng, others))
    return replace(sound, events=tuple(events), relation=sound.relation if len(events) > 1 else "")


def _times(event: Event) -> str:
    if event.name not in DISCRETE or event.count < 2:
        return ""
    return " twice" if event.count == 2 else " several times"


def _clause(rng: Rng, event: Event) -> str:
    return pick(rng, LEXICON[event.name].clauses)


def audiocaps_caption(rng: Rng, sound: Sound) -> str:
    """Present tense, order and simultaneity in words: "A dog barks twice followed by a man speaking"."""
    first = sound.events[0]
    text = capital(_clause(rng, first)) + _times(first)
    for number, event in enumerate(sound.events[1:], start=1):
        thing, clause = LEXICON[event.name].thing, _clause(rng, event)
        if number > 1:
            text += f", and {clause}"
        elif sound.relation == "then":
            text += pick(rng, (f" followed by {thing}", f", then {clause}{_times(event)}"))
        else:
            text += pick(rng, (f" while {clause}", f" as {clause}", f" with {thing}"))
    return text


def clotho_caption(rng: Rng, sound: Sound) -> str:
    """Longer, progressive, with distance and place: "A dog is barking loudly and rain is falling outside."."""
    parts = []
    for event in sound.events:
        words = pick(rng, LEXICON[event.name].being)
        if event.level_db > _LOUD_DB:
            words += pick(rng, (" loudly", " close by"))
        elif event.level_db < -_LOUD_DB:
            words += pick(rng, (" in the distance", " faintly", " in the background"))
        parts.append(words)
    joint = " and then " if sound.relation == "then" else pick(rng, (" while ", " and ", " as "))
    text = joint.join(parts[:2]) + (f" and {parts[2]}" if len(parts) > 2 else "")
    if rng.random() < 0.4:
        text += {"outdoor": " outside", "room": " inside"}.get(sound.bed, "")
    return capital(text) + "."


def wavcaps_caption(rng: Rng, sound: Sound) -> str:
    """Machine-made plain captions that leave details out: "Birds chirping and rain falling can be heard."."""
    things = [LEXICON[event.name].thing for event in sound.events[:2]]
    if len(things) == 1:
        return capital(pick(rng, (f"{things[0]} is heard.", f"the sound of {things[0]}.", f"{things[0]}.")))
    return capital(
        pick(
            rng,
            (
                f"{things[0]} and {things[1]} are heard.",
                f"{things[0]} with {things[1]}.",
                f"sounds of {things[0]} and {things[1]}.",
            ),
        )
    )


def bbc_description(rng: Rng, sound: Sound) -> str:
    """Archive notes: "Dogs - single dog barking, three times, with rain, ext."."""
    first = sound.events[0]
    parts = [LEXICON[first.name].archive]
    if first.name in DISCRETE:
        parts.append(_COUNTS[min(first.count, 4)])
    parts += [f"with {LEXICON[event.name].archive.split(' - ')[0].lower()}" for event in sound.events[1:]]
    parts.append("int." if sound.bed == "room" else "ext.")
    return ", ".join(parts)


def macs_sentence(rng: Rng, sound: Sound) -> str:
    """One annotator's sentence about an urban place."""
    place = PLACE_WORDS[sound.bed]
    parts = [pick(rng, LEXICON[event.name].being) for event in sound.events]
    if not parts:
        return capital(pick(rng, (f"quiet background noise in {place}.", f"the hum of {place}.")))
    return capital(f"{' and '.join(parts)} {pick(rng, (f'in {place}', f'and it sounds like {place}'))}.")


def sound_labels(sound: Sound) -> str:
    """AudioSet labels in order of appearance, as OpenAQA writes them."""
    return "; ".join(LEXICON[name].label for name in sound.names)


def openaqa_pairs(rng: Rng, sound: Sound) -> list[tuple[str, str, str]]:
    """(task, question, answer) for each kind of question that this recording allows."""
    first = sound.events[0]
    label = LEXICON[first.name].label
    pairs = [
        (
            "cla_label",
            pick(rng, ("Classify the sound events in the audio clip.", "What are the sound events in the clip?")),
            sound_labels(sound),
        ),
        ("caption", "Write an audio caption describing the sound.", audiocaps_caption(rng, sound) + "."),
    ]
    present = rng.random() < 0.5
    asked = pick(rng, sound.names) if present else pick(rng, [name for name in EVENT_NAMES if name not in sound.names])
    pairs.append(
        (
            "closed-ended question",
            f"Does the audio contain the sound of {LEXICON[asked].thing}?",
            "Yes." if present else "No.",
        )
    )
    if sound.relation == "then":
        pairs.append(("temporal_order", "Which sound begins first?", f"{label}."))
    if first.name in DISCRETE:
        question = f"How many times does the sound of {LEXICON[first.name].thing} occur?"
        pairs.append(("temporal_single", question, f"{capital(_COUNTS[min(first.count, 4)])}."))
    else:
        where = "indoors" if sound.bed == "room" else "outdoors"
        reason = f"The recording was probably made {where}, where {pick(rng, LEXICON[first.name].being)}."
        pairs.append(("open-ended question", "What can be inferred about the place of the recording?", reason))
    return pairs


def chime_letters(sound: Sound) -> str:
    """CHiME-Home's source classes of the events, in its fixed order; "S" for silence."""
    present = {LEXICON[name].letter for name in sound.names}
    return "".join(letter for letter in "cmfvpbo" if letter in present) or "S"

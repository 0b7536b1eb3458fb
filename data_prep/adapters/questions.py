"""Question wordings for corpora that bring labels or captions instead of questions.

A clip's wording is chosen by a hash of its id, so it never changes between runs, machines or process counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from data_prep.adapters.common import clean, stable_hash
from pipeline.types import Qa

POOLS: dict[str, tuple[str, ...]] = {
    "caption": (
        "Describe the sound in this clip.",
        "What can be heard in this recording?",
        "Write a caption for this audio.",
        "What is happening in this audio clip?",
        "Summarise what you hear in one sentence.",
    ),
    "sources": (
        "Which sound sources are present?",
        "What kinds of sound can be heard in this home recording?",
        "Name the sound sources in this clip.",
    ),
    "presence": ("Can {thing} be heard in this clip? Answer yes or no.", "Is there {thing} in this recording?"),
    "tags": ("Which sounds are present in this clip?", "List the sounds that can be heard."),
    "category": ("Which category does this sound belong to?", "What type of sound is this?"),
    "scene": (
        "What acoustic scene is this?",
        "Where was this recorded?",
        "In what kind of place was this clip recorded?",
    ),
    "scene_choice": ("Which acoustic scene is this: {options}?", "Choose the place of this recording: {options}."),
    "emotion": (
        "What emotion does the speaker express?",
        "How does the speaker feel?",
        "Which emotion do you hear in the voice?",
    ),
    "emotion_choice": (
        "Which emotion do you hear in the voice: {options}?",
        "Does the speaker sound {options}?",
    ),
    "transcript": ("What does the speaker say?", "Write down what is said in this clip.", "Transcribe the speech."),
    "gender": ("What is the gender of the speaker?", "Is the speaker male or female?"),
    "pitch": ("How high is the pitch of the voice: low, normal or high?", "What is the pitch of the speaker?"),
    "speed": ("How fast does the speaker talk: slow, normal or fast?", "What is the speaking speed?"),
    "energy": ("How loud is the voice: low, normal or high?", "What is the volume of the speaker?"),
    "style": (
        "Describe the speaking style.",
        "Describe how the speaker talks.",
        "Which style prompt fits this voice?",
    ),
    "instrument": (
        "Which instruments are playing?",
        "Name the instruments in this excerpt.",
        "What instruments can be heard?",
    ),
    "instrument_count": ("How many different instruments are playing?", "Count the different instruments."),
    "ensemble": ("What kind of ensemble is playing?", "Which ensemble performs this piece?"),
    "composer": ("Who composed this piece?", "Which composer wrote this music?"),
}

# Task of questions about a recording as a whole (its length, how it begins and ends): wrong for a part of it.
WHOLE_TASK = "qa_whole"

GENDERS = {"m": "male", "male": "male", "f": "female", "female": "female"}
LEVELS = {"low": "low", "normal": "normal", "high": "high"}
SPEEDS = {"low": "slow", "slow": "slow", "normal": "normal", "high": "fast", "fast": "fast"}
EMOTIONS = {word: word for word in ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")}


def ask(
    clip_id: str, task: str, *answers: str, index: int | None = None, pool: str | None = None, **words: str
) -> Qa | None:
    """The question of `task` about one clip, worded from `pool` (default: the task's); None without any answer.

    `index` tells several questions of one task apart; `words` fill the places in the wording.
    """
    usable = tuple(dict.fromkeys(text for text in map(clean, answers) if text))
    if not usable:
        return None
    qa_id = f"{clip_id}/{pool or task}" if index is None else f"{clip_id}/{pool or task}/{index}"
    wordings = POOLS[pool or task]
    question = wordings[stable_hash(qa_id) % len(wordings)].format(**words)
    return Qa(id=qa_id, task=task, question=question, answer=usable[0], answers=usable)


def ask_native(clip_id: str, task: str, index: int, question: str, answer: str) -> Qa | None:
    """A question that the corpus brings itself, cleaned; None when the question or the answer is empty."""
    question, answer = clean(question), clean(answer)
    if not question or not answer:
        return None
    return Qa(id=f"{clip_id}/{index}", task=task, question=question, answer=answer, answers=(answer,))


def ask_captions(clip_id: str, split: str, captions: Sequence[str]) -> list[Qa]:
    """In train one question a caption, as every caption is a target; else one question with all references."""
    if split != "train" or len(captions) == 1:
        return present(ask(clip_id, "caption", *captions))
    return present(*(ask(clip_id, "caption", text, index=index) for index, text in enumerate(captions)))


def ask_level(clip_id: str, task: str, value: str, words: dict[str, str]) -> Qa | None:
    """An attribute question; None when the corpus' value is blank, `nan` or otherwise not among `words`."""
    return ask(clip_id, task, words.get(value.strip().lower(), ""))


def ask_voice(clip_id: str, row: dict[str, str], speed: str) -> list[Qa]:
    """Style prompt, gender, pitch, speed and energy of one voice, from the columns that the speech corpora share.

    `speed` comes apart, because its column is called otherwise in each corpus.
    """
    return present(
        ask(clip_id, "style", row["style_prompt"]),
        ask_level(clip_id, "gender", row["gender"], GENDERS),
        ask_level(clip_id, "pitch", row["pitch"], LEVELS),
        ask_level(clip_id, "speed", speed, SPEEDS),
        ask_level(clip_id, "energy", row["energy"], LEVELS),
    )


def ask_presence(clip_id: str, present_things: Sequence[str], vocabulary: Sequence[str]) -> Qa | None:
    """A yes/no question about one thing of `vocabulary`, yes and no equally often; None when one side is empty."""
    absent = [thing for thing in vocabulary if thing not in present_things]
    if not present_things or not absent:
        return None
    number = stable_hash(f"{clip_id}/presence")
    side, answer = (present_things, "yes") if number % 2 else (absent, "no")
    return ask(clip_id, "presence", answer, thing=side[number // 2 % len(side)])


def choices(clip_id: str, right: str, vocabulary: Sequence[str], n: int = 4) -> str:
    """`n` answers of `vocabulary` with the right one among them, in hashed order: "a, b, c or d"."""
    others = sorted((word for word in vocabulary if word != right), key=lambda word: stable_hash(f"{clip_id}/{word}"))
    options = sorted([right, *others[: n - 1]], key=lambda word: stable_hash(f"{word}/{clip_id}"))
    return join_words(options, "or")


def join_words(words: Sequence[str], last: str = "and") -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def present(*questions: Qa | None) -> list[Qa]:
    """The questions that have an answer."""
    return [question for question in questions if question is not None]

"""Layouts of the corpora of speech: PromptSpeech, TextrolSpeech, IEMOCAP."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from data_prep.mini import pools
from data_prep.mini.plan import Plan
from data_prep.mini.seeds import pick, stream, weighted
from data_prep.mini.sentences import dialogue_line, sentence
from data_prep.mini.speech import EMOTIONS, Speaker, Utterance, draw_speaker, draw_utterance, estimated_duration_s
from data_prep.mini.text_speech import (
    LEVELS,
    TEXTROL_EMOTIONS,
    Attributes,
    flip,
    promptspeech_attributes,
    promptspeech_prompt,
    textrol_attributes,
    textrol_prompt,
)

NOISE = {"promptspeech": 0.05, "textrolspeech": 0.08, "iemocap": 0.12}
PROMPTSPEECH_SPLITS = {"training": 310, "test": 56}
# TextrolSpeech: LibriTTS clips shared with PromptSpeech's training part, LibriTTS clips of its own, VCTK, acted clips.
N_TEXTROL = {"shared": 120, "libritts": 50, "vctk": 24, "acted": 220}
TEXTROL_TEST_SHARE = 0.13
_CHOICES: dict[str, tuple[str, ...]] = {
    "gender": ("M", "F"),
    "pitch": LEVELS,
    "speaking_speed": ("slow", "normal", "fast"),
    "tempo": LEVELS,
    "energy": LEVELS,
}

IEMOCAP_DIALOGS = ("F_impro01", "M_impro02", "F_script01_1", "M_script02_2", "F_impro03", "M_script03_1")
N_IEMOCAP_SESSION = 72
IEMOCAP_DIALOG_LENGTH = 12
IEMOCAP_LABELS = {
    "neu": 5.0, "ang": 4.0, "sad": 4.0, "hap": 2.5, "exc": 2.5, "fru": 2.0, "xxx": 1.0, "sur": 0.3, "oth": 0.2,
}  # fmt: skip
IEMOCAP_EMOTIONS = {
    "neu": "neutral", "ang": "angry", "sad": "sad", "hap": "happy", "exc": "excited", "fru": "frustrated",
    "xxx": "frustrated", "sur": "surprised", "oth": "contempt",
}  # fmt: skip
_CATEGORY_WORDS = {
    "neu": "Neutral", "ang": "Anger", "sad": "Sadness", "hap": "Happiness", "exc": "Excited", "fru": "Frustration",
    "xxx": "Other", "sur": "Surprise", "oth": "Other",
}  # fmt: skip


def lay_out_promptspeech(plan: Plan) -> None:
    """Two CSVs and LibriTTS wavs; the subset of a speaker stands only in the path."""
    header = ("item_name", "spk_id", "gender", "pitch", "speaking_speed", "energy", "style_prompt")
    start = 0
    for part, count in PROMPTSPEECH_SPLITS.items():
        rows: list[tuple[object, ...]] = [header]
        for index in range(start, start + plan.n(count, least=6)):
            item, path = pools.libritts_name(plan.seed, index)
            utterance = pools.libritts_utterance(plan.seed, index)
            rng = stream(plan.seed, "promptspeech", index)
            noted = flip(rng, promptspeech_attributes(utterance), NOISE["promptspeech"], _CHOICES)
            prompt = promptspeech_prompt(rng, noted)
            rows.append((item, item.split("_")[0], *(noted[name] for name in header[2:-1]), prompt))
            plan.audio("promptspeech", f"promptspeech/LibriTTS/{path}.wav", utterance)
        start += len(rows) - 1
        plan.table(f"promptspeech/Real_{part}.csv", rows)


def lay_out_textrolspeech(plan: Plan) -> None:
    """Two CSVs over LibriTTS, VCTK and acted clips whose item names are hyphenated paths."""
    header = (
        "num", "wav_fp", "item_name", "gender", "pitch", "tempo", "energy", "emotion", "style_prompt", "content_prompt",
    )  # fmt: skip
    rows: dict[str, list[tuple[object, ...]]] = {"train": [header], "test": [header]}
    for number, (item, path, utterance, may_test) in enumerate(_textrol_clips(plan)):
        rng = stream(plan.seed, "textrolspeech", number)
        acted = path.startswith("emotion_dataset/")
        choices = {**_CHOICES, **({"emotion": TEXTROL_EMOTIONS} if acted else {})}
        noted: Attributes = flip(rng, textrol_attributes(utterance), NOISE["textrolspeech"], choices)
        if not acted:
            noted["emotion"] = "nan"
        split = "test" if may_test and rng.random() < TEXTROL_TEST_SHARE / _may_test_share() else "train"
        values = (noted[name] for name in header[3:8])
        rows[split].append((number, path, item, *values, textrol_prompt(rng, noted), utterance.text))
        plan.audio("textrolspeech", f"textrolspeech/{path}", utterance)
    for split, table in rows.items():
        plan.table(f"textrolspeech/caption/random_{split}.csv", table)


def _may_test_share() -> float:
    """Clips shared with PromptSpeech's training part stay in train: the official test must not be trained on there."""
    return 1 - N_TEXTROL["shared"] / sum(N_TEXTROL.values())


def _textrol_clips(plan: Plan) -> list[tuple[str, str, Utterance, bool]]:
    """(item name, path, latent, whether it may be a test clip) of all clips."""
    clips: list[tuple[str, str, Utterance, bool]] = []
    n_prompt = sum(plan.n(count, least=6) for count in PROMPTSPEECH_SPLITS.values())
    n_shared = min(plan.n(N_TEXTROL["shared"]), plan.n(PROMPTSPEECH_SPLITS["training"], least=6))
    own = range(n_prompt, n_prompt + plan.n(N_TEXTROL["libritts"]))
    for index in (*range(n_shared), *own):
        item, path = pools.libritts_name(plan.seed, index)
        utterance = pools.libritts_utterance(plan.seed, index)
        clips.append((item, f"libritts/{path}.wav", utterance, index >= n_shared))
    for index in range(plan.n(N_TEXTROL["vctk"])):
        name = f"p{225 + index % 6}_{index:03d}"
        speaker = draw_speaker(plan.seed, f"vctk-{index % 6}")
        text = sentence(stream(plan.seed, "vctk text", index))
        utterance = draw_utterance(plan.seed, f"vctk/{index}", speaker, text)
        clips.append((name, f"VCTK-Corpus/wav48/{name.split('_')[0]}/{name}.wav", utterance, True))
    for index in range(plan.n(N_TEXTROL["acted"], least=10)):
        path, utterance = _acted_clip(plan.seed, index)
        item = path.removesuffix(".wav").replace("/", "-")
        clips.append((item, f"emotion_dataset/{path}", utterance, True))
    return clips


@dataclass(frozen=True)
class ActedCorpus:
    """One of the emotion corpora inside TextrolSpeech: path shape, actors with genders, its names of emotions."""

    shape: str
    actors: tuple[tuple[str, str], ...]
    emotions: dict[str, str]


ACTED: tuple[ActedCorpus, ...] = (
    ActedCorpus(
        "MEAD/{actor}/audio/{emotion}/level_{level}/{number:03d}.wav",
        (("M026", "male"), ("W011", "female"), ("M003", "male"), ("W015", "female")),
        {name: name for name in TEXTROL_EMOTIONS},
    ),
    ActedCorpus(
        "Emotional Speech Dataset (ESD)/Emotion Speech Dataset/{actor}/{emotion}/{actor}_{number:06d}.wav",
        (("0011", "male"), ("0015", "female"), ("0020", "male"), ("0017", "female")),
        {"angry": "Angry", "happy": "Happy", "neutral": "Neutral", "sad": "Sad", "surprised": "Surprise"},
    ),
    ActedCorpus(
        "RAVDESS/Actor_{actor}/03-01-0{emotion}-01-01-01-{number:03d}.wav",
        (("01", "male"), ("02", "female")),
        {"neutral": "1", "happy": "3", "sad": "4", "angry": "5", "fear": "6", "disgusted": "7", "surprised": "8"},
    ),
    ActedCorpus(
        "CREMA-D/AudioWAV/{actor}_{number:03d}_{emotion}_XX.wav",
        (("1060", "male"), ("1043", "female"), ("1001", "male")),
        {"angry": "ANG", "disgusted": "DIS", "fear": "FEA", "happy": "HAP", "neutral": "NEU", "sad": "SAD"},
    ),
)


def _acted_clip(seed: int, index: int) -> tuple[str, Utterance]:
    """Path below `emotion_dataset/` and latent; acted emotions are strong, the rest of the voice varies less."""
    corpus = ACTED[index % len(ACTED)]
    rng = stream(seed, "acted", index)
    actor, gender = pick(rng, corpus.actors)
    emotion = pick(rng, list(corpus.emotions))
    path = corpus.shape.format(actor=actor, emotion=corpus.emotions[emotion], level=1 + index % 3, number=index)
    speaker = draw_speaker(seed, f"actor-{actor}", gender)
    return path, _calm(draw_utterance(seed, f"acted/{index}", speaker, sentence(rng), emotion), 0.4)


def _calm(utterance: Utterance, spread: float) -> Utterance:
    """Pull speed, pitch and energy towards the speaker's own, so that emotion is what varies most."""
    return replace(
        utterance,
        rate_wpm=round(190 + spread * (utterance.rate_wpm - 190)),
        pitch=round(spread * utterance.pitch),
        energy_db=spread * utterance.energy_db,
    )


def lay_out_iemocap(plan: Plan) -> None:
    """Five sessions of two speakers: wavs by dialog, evaluation and transcription text in Latin-1."""
    n_utterances = plan.n(N_IEMOCAP_SESSION, least=8)
    for session in range(1, 6):
        root = f"IEMOCAP_full_release/Session{session}"
        for index, start in enumerate(range(0, n_utterances, IEMOCAP_DIALOG_LENGTH)):
            suffix = "" if index < len(IEMOCAP_DIALOGS) else f"b{index}"
            dialog = f"Ses{session:02d}{IEMOCAP_DIALOGS[index % len(IEMOCAP_DIALOGS)]}{suffix}"
            _dialog(plan, root, session, dialog, min(IEMOCAP_DIALOG_LENGTH, n_utterances - start))
        # A macOS copy leaves such files; readers must pass over them.
        litter = f"{root}/dialog/EmoEvaluation/._Ses{session:02d}F_impro01.txt"
        plan.text(litter, b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
    plan.text("IEMOCAP_full_release/README.txt", "IEMOCAP layout, synthesised speech.\n")


def _dialog(plan: Plan, root: str, session: int, dialog: str, n_utterances: int) -> None:
    evaluation = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    transcript = []
    at_s = 2.0
    counts = {"F": 0, "M": 0}
    for index in range(n_utterances):
        letter = "FM"[index % 2]
        name = f"{dialog}_{letter}{counts[letter]:03d}"
        counts[letter] += 1
        rng = stream(plan.seed, "iemocap", name)
        label = weighted(rng, IEMOCAP_LABELS)
        speaker = draw_speaker(plan.seed, f"iemocap-{session}{letter}", {"F": "female", "M": "male"}[letter])
        utterance = _iemocap_utterance(plan.seed, name, speaker, IEMOCAP_EMOTIONS[label], rng)
        assert utterance.duration_s is not None
        end_s = at_s + utterance.duration_s
        heard = weighted(rng, IEMOCAP_LABELS) if rng.random() < NOISE["iemocap"] else label
        evaluation += _evaluation_block(rng, name, at_s, end_s, heard)
        transcript.append(f"{name} [{at_s:08.4f}-{end_s:08.4f}]: {utterance.text}")
        plan.audio("iemocap", f"{root}/sentences/wav/{dialog}/{name}.wav", utterance)
        at_s = end_s + 0.4
    # Some lines of the release have an id that no label belongs to.
    transcript.append(f"{dialog}_MXX0 [{at_s:08.4f}-{at_s + 1:08.4f}]: [LAUGHTER]")
    plan.text(f"{root}/dialog/EmoEvaluation/{dialog}.txt", "\n".join(evaluation) + "\n", "latin-1")
    plan.text(f"{root}/dialog/transcriptions/{dialog}.txt", "\n".join(transcript) + "\n", "latin-1")


def _iemocap_utterance(seed: int, name: str, speaker: Speaker, emotion: str, rng: np.random.Generator) -> Utterance:
    line = dialogue_line(rng, emotion)
    utterance = _calm(draw_utterance(seed, f"iemocap/{name}", speaker, line, emotion), 0.45)
    utterance = replace(utterance, noise_db=float(rng.uniform(-60, -46)), room_wet=float(rng.uniform(0.1, 0.4)))
    return replace(utterance, duration_s=estimated_duration_s(utterance))


def _evaluation_block(rng: np.random.Generator, name: str, start_s: float, end_s: float, label: str) -> list[str]:
    emotion = EMOTIONS[IEMOCAP_EMOTIONS[label]]
    activation = float(np.clip(2.5 + emotion.energy_db / 3, 1, 5))
    valence = {"hap": 4.0, "exc": 4.2, "neu": 2.8}.get(label, 2.0)
    rated = ", ".join(f"{float(np.clip(value + rng.normal(0, 0.3), 1, 5)):.4f}" for value in (valence, activation, 2.8))
    lines = [f"[{start_s:.4f} - {end_s:.4f}]\t{name}\t{label}\t[{rated}]"]
    for annotator in (2, 3, 4):
        category = label if rng.random() < 0.8 else weighted(rng, IEMOCAP_LABELS)
        lines.append(f"C-E{annotator}:\t{_CATEGORY_WORDS[category]};\t()")
    lines.append(f"A-E3:\tval {round(valence)}; act {round(activation)}; dom 3;\t()")
    return [*lines, ""]
